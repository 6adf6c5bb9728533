"""The merged model of a LoRA finetune: written after the training, by one process that is in no process group.

    final (adapter) + base model --W + (alpha / rank) B A--> merged

Inside of the training a merge would load the base model under the training's own rules: ZeRO-3 shards whatever is
loaded, which every rank must do together. Afterwards it is one task on any machine, and the memory of the training is
free. It asks Ray for its memory: the base model in float32. Where it fails, a run that is started again goes on from
the last checkpoint, which is of the last step, and merges at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.fs as pafs
import ray

from raycurate.run.filesystem import delete_folder
from raycurate.stages.engine.shards import get_result
from raycurate.stages.workers.finetune import Order

BYTES_PER_PARAMETER = 5
"""float32, and room for the tensors that are being merged and cast."""
FIXED_BYTES = 1 << 29
RETRIES = 2


def write_merged(order: Order, parameters: int, *, in_process: bool) -> None:
    """Write `merged` beside `final`.

    Args:
        order: of the training.
        parameters: of the trained model.
        in_process: merge here, without a task.
    """
    if in_process:
        _merge(order)
        return
    # No more than a machine has: where nothing else is known of the memory, the task must still run.
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    memory = min(BYTES_PER_PARAMETER * parameters + FIXED_BYTES, int(largest))
    task = ray.remote(_merge).options(
        num_cpus=order.config.cpus_per_worker,
        memory=memory or None,
        max_retries=RETRIES,
        label_selector=order.config.nodes or None,
    )
    get_result(task.remote(order))


def _merge(order: Order) -> None:
    from raycurate.training.network import merge_adapter

    config, noun = order.config, order.noun
    filesystem, local = noun.filesystem, pafs.LocalFileSystem()
    if isinstance(filesystem, pafs.LocalFileSystem):
        partial = Path(noun.folder, ".merged")
        shutil.rmtree(partial, ignore_errors=True)
        merge_adapter(config.model, f"{noun.folder}/final", partial, trust_remote_code=config.trust_remote_code)
        delete_folder(filesystem, f"{noun.folder}/merged")
        os.replace(partial, f"{noun.folder}/merged")
        return
    with tempfile.TemporaryDirectory(prefix="raycurate-merge-", dir=config.scratch) as folder:
        adapter, merged = f"{folder}/final", f"{folder}/merged"
        os.mkdir(adapter)
        pafs.copy_files(f"{noun.folder}/final", adapter, filesystem, local)
        merge_adapter(config.model, adapter, merged, trust_remote_code=config.trust_remote_code)
        delete_folder(filesystem, f"{noun.folder}/merged")
        pafs.copy_files(merged, f"{noun.folder}/merged", local, filesystem)
