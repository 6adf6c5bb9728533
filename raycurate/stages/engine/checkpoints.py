"""The model that a stage is told to use, where it may be one that this run trained: found, hashed, loaded, merged.

`models/LABEL` names a finished finetune of the run, anything else a hub id, a folder or 'tiny'. A folder with an
`adapter_config.json` is a LoRA: its base model is loaded onto the device, and the LoRA is merged into it there, layer
by layer in float32. On a run directory that is not on a local (or shared) filesystem the files are copied to the
machine once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from raycurate.errors import UserError
from raycurate.models.source import model_fingerprint, resolve_model
from raycurate.run.filesystem import exists
from raycurate.run.manifest import Manifest, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.foreseen import ModelSize, size_of
from raycurate.stages.engine.lineage import required

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model is. Small and picklable: it travels to every worker.

    Attributes:
        name: as the user gave it.
        noun: the `models` noun that holds it, None for any other model.
        base: the model that the noun was trained from.
    """

    name: str
    noun: Noun | None = None
    base: str | None = None


def find_checkpoint(run: Run, model: str) -> Checkpoint:
    """The checkpoint that `model` names; `UserError` for a model of the run that is not finished."""
    label = model.removeprefix("models/")
    if label == model or "/" in label or Path(model).is_dir():
        return Checkpoint(model)
    noun = run.noun("models", label)
    manifest = required(noun, otherwise=f", or give --model {noun.uri_of('final')} to take it as it is")
    return Checkpoint(model, noun, manifest.description["config"]["model"])


def trained_by(checkpoint: Checkpoint) -> list[Manifest]:
    """The manifest of the training, for a model of the run."""
    return [] if checkpoint.noun is None else [checkpoint.noun.require("finetune")]


def local_source(checkpoint: Checkpoint) -> str:
    """What transformers can load on this machine: a folder, or a hub id."""
    noun = checkpoint.noun
    if noun is None:
        return resolve_model(checkpoint.name)
    name = "merged" if exists(noun.filesystem, f"{noun.folder}/merged") else "final"
    remote = f"{noun.folder}/{name}"
    if isinstance(noun.filesystem, pafs.LocalFileSystem):
        return remote
    # By the whole manifest: a model that was trained again, even alike, is another one.
    made = fingerprint_of(asdict(noun.require("finetune")))
    folder = Path(tempfile.gettempdir()) / f"raycurate-{os.getuid()}" / f"models-{made}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        partial.mkdir(parents=True)
        pafs.copy_files(remote, str(partial), noun.filesystem, pafs.LocalFileSystem())
        try:
            os.replace(partial, folder)
        except OSError:  # another process of this machine was first
            if not folder.is_dir():
                raise
    return str(folder)


def base_of(checkpoint: Checkpoint, source: str) -> str | None:
    """The base model of the adapter in `source`, None where it is a whole model."""
    path = Path(source) / ADAPTER_FILE
    if not path.is_file():
        return None
    if checkpoint.base is not None:
        return checkpoint.base
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{path} does not name its base model (base_model_name_or_path)")
    return str(base)


class CheckpointFacts(NamedTuple):
    """What the driver must know of a checkpoint: its files, the dtype to run in, the bytes of an image for it, and what
    its cost follows from."""

    fingerprint: str
    dtype: str
    image_bytes: int
    size: ModelSize | None = None


def checkpoint_facts(
    checkpoint: Checkpoint, dtype: str, on_gpu: bool, trust_remote_code: bool, samples: Noun | None = None
) -> CheckpointFacts:
    """Look at a checkpoint, and at the samples that it is to answer; runs as a task, as it imports transformers."""
    from transformers import AutoConfig

    from raycurate.encoding.images import ImageReader
    from raycurate.encoding.probe import check_processor
    from raycurate.models.adapter import check_supported, load_processor, resolve_dtype

    source = local_source(checkpoint)
    base = base_of(checkpoint, source)
    whole = resolve_model(base or source)
    processor = load_processor(whole, trust_remote_code=trust_remote_code)  # tells early what is wrong with the name
    config = AutoConfig.from_pretrained(whole, trust_remote_code=trust_remote_code)
    check_supported(checkpoint.name, config)
    check_processor(processor, checkpoint.name, config)
    parts = [model_fingerprint(whole, config)] + ([model_fingerprint(source, None)] if base else [])
    fingerprint = fingerprint_of_parts(parts)
    named = resolve_dtype(dtype, "cuda" if on_gpu else "cpu")
    image_bytes = ImageReader(processor, named).largest_bytes()
    size = None
    if samples is not None:
        size = size_of(config, processor, checkpoint.name, samples, trust_remote_code=trust_remote_code)
    return CheckpointFacts(fingerprint, str(named).removeprefix("torch."), image_bytes, size)


def fingerprint_of_parts(parts: Sequence[str]) -> str:
    """Hex blake2b-128 of the fingerprints of a model, or of the base and of the adapter on it."""
    return hashlib.blake2b(":".join(parts).encode(), digest_size=16).hexdigest()


def load_checkpoint(checkpoint: Checkpoint, *, device: str, dtype: str, trust_remote_code: bool) -> Any:
    """The `models.adapter.VLM`, an adapter merged into it."""
    from raycurate.models.adapter import load_vlm, wrap_vlm
    from raycurate.training.network import merged_network

    source = local_source(checkpoint)
    base = base_of(checkpoint, source)
    vlm = load_vlm(base or source, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    if base is None:
        return vlm
    return wrap_vlm(merged_network(vlm.model, source), vlm.processor, name=checkpoint.name)


def processor_source(checkpoint: Checkpoint) -> str:
    """What `load_processor` takes: the base model of an adapter, else the model itself."""
    source = local_source(checkpoint)
    return base_of(checkpoint, source) or source


def merged_folder(checkpoint: Checkpoint, scratch: Path, trust_remote_code: bool) -> str:
    """The checkpoint as plain transformers loads it; an adapter is merged into `scratch`."""
    from raycurate.training.network import merge_adapter

    source = local_source(checkpoint)
    base = base_of(checkpoint, source)
    if base is None:
        return source
    merge_adapter(base, source, scratch, trust_remote_code=trust_remote_code)
    return str(scratch)


def generation_settings(folder: str, *, trust_remote_code: bool = False) -> Any:
    """The generation settings of a checkpoint, as a loaded network has them."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # a checkpoint without such a file
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)
