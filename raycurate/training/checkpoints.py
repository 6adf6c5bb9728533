"""Going on from a checkpoint: which one, and without running what lies in it.

A checkpoint is complete once `COMPLETE` names it. Optimizer states, random states and ZeRO's shards are pickles, and a
pickle can run code; whoever can write to a run directory could run theirs in the training. DeepSpeed reads its own
without any bound. So while a training loads, torch is told to read plain data only, whoever asks: tensors, containers
and the few classes named here, which do nothing but hold values. Anything else is refused before it is made.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from raycurate.errors import UserError

COMPLETE = "complete.json"
_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def checkpoint_name(marker: Any) -> str:
    """The folder's name that the content of `COMPLETE` gives.

    Raises:
        UserError: it is no plain `checkpoint-STEP`: such a name could point out of the run directory.
    """
    name = marker.get("checkpoint") if isinstance(marker, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"checkpoint-\d+", name):
        raise UserError(
            f"checkpoints/{COMPLETE} names {str(name)[:100]!r}, which is no checkpoint. Delete the folder "
            "`checkpoints` to train from the start."
        )
    return name


def complete_checkpoint(output: str | Path) -> str | None:
    """The folder of the last complete checkpoint, None where there is none."""
    marker = Path(output) / "checkpoints" / COMPLETE
    if not marker.is_file():
        return None
    folder = marker.parent / checkpoint_name(json.loads(marker.read_text(encoding="utf-8")))
    return str(folder) if folder.is_dir() else None


@contextlib.contextmanager
def plain_data_only(checkpoint: str | None, deepspeed: bool) -> Iterator[None]:
    """Let `torch.load` read plain data only, in the whole process, for the body.

    Args:
        checkpoint: what the body goes on from, for the message.
        deepspeed: whether DeepSpeed's own files may be among it.

    Raises:
        UserError: a file holds anything else.
    """
    saved = {name: os.environ.pop(name, None) for name in (_FORCE, _FORBID)}
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_value_classes() if deepspeed else []):
            yield
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise UserError(
            f"the checkpoint {checkpoint} holds more than plain data and was not loaded: it could run code of whoever "
            f"wrote it. {reason[:300].strip()} Delete {Path(checkpoint or '').parent} to train from the start."
        ) from error
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _value_classes() -> list[Any]:
    """The classes of DeepSpeed's files, none of which does anything when it is made."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address, (_member, "builtins.getattr")]


def _member(kind: Any, name: Any) -> Any:
    """In place of `getattr`, by which Python 3.11.0 to 3.11.3 pickles a member of an enumeration: nothing but that."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"GLOBAL getattr of {str(name)[:50]!r} was not an allowed global")
