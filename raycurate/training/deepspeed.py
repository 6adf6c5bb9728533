"""DeepSpeed configs made from the settings, in LLaVA's shape with today's corrections.

`overlap_comm` is off and clipping is `auto`, as in LLaMA-Factory and ms-swift. There is no `optimizer` section: the
trainer's own AdamW, with its group for the projector, is used. Under ZeRO-3 the 16-bit weights are gathered when a
model is saved, so that a checkpoint is a `save_pretrained` folder; all ranks must save together.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from raycurate.errors import UserError, unknown_name

STAGES = ("zero2", "zero3")


def deepspeed_config(name: str, *, bf16: bool) -> dict[str, Any]:
    """The config for "zero2", "zero3" or a JSON file.

    Raises:
        UserError: an unknown name, or a file that is not a JSON object.
    """
    if name not in STAGES:
        return _read(name)
    zero: dict[str, Any] = {
        "stage": int(name[-1]),
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    }
    if name == "zero3":
        zero |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "wall_clock_breakdown": False,
        "steps_per_print": 1_000_000_000,
    }


def prepare_deepspeed(*, on_gpu: bool) -> None:
    """Import and connect DeepSpeed for this process's device, before anything else asks for it.

    accelerate has no DeepSpeed on CPUs: it would count one process, or leave DeepSpeed out without a word. So its
    state is made here, as for gloo, and then marked; the training arguments must ask for `use_configured_state`.
    DeepSpeed's shared-memory all-reduce for CPUs is left out: it would be compiled on first use, which takes minutes
    and a compiler.

    Raises:
        UserError: DeepSpeed is not installed.
    """
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            f"DeepSpeed cannot be imported ({error}): DS_BUILD_OPS=0 pip install deepspeed, or leave it out"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not on_gpu:
        from accelerate import DistributedType, PartialState

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
        PartialState._reset_state()
        PartialState(cpu=True, backend="gloo").distributed_type = DistributedType.DEEPSPEED


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix != ".json":
        raise unknown_name("DeepSpeed setting", name, [*STAGES, "a path that ends with .json"])
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the DeepSpeed config {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"the DeepSpeed config {path} must be a JSON object")
    return value
