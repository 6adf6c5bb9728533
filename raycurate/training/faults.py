"""Which failures of a training come again at every start, and what to do about them.

A worker or a node that is lost, a connection that breaks, storage that does not answer: the same training may go well
when it is started again. An error that the code, the settings or the data raise comes again, after the minutes that it
took to get there: it is told at once. Both are told apart by type, since libraries word them differently; connections
that torch, gloo and NCCL report as a plain `RuntimeError` by their words. What is not known to pass comes again.
"""

from __future__ import annotations

import errno
import re

import torch

from raycurate.errors import UserError
from raycurate.features.survival import is_out_of_memory
from raycurate.training.config import FinetuneConfig

_LASTING_ERRNOS = frozenset(
    (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)
)
_CONNECTION = re.compile(
    r"connection (?:closed|reset|refused|aborted)|broken pipe|timed? ?out|no route to host|network error|socket|gloo|"
    r"nccl|heartbeat|process group|unhealthy|uncorrectable|hardware|fell off the bus|launch failure",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"shapes? cannot be multiplied|size of tensor|must match|size mismatch|shape mismatch|expected .* to have .* siz",
    re.IGNORECASE,
)


def comes_again(error: BaseException) -> bool:
    """Whether the same training would fail in the same way if it was started again."""
    if isinstance(error, UserError):
        return True
    if isinstance(error, MemoryError) or (isinstance(error, Exception) and is_out_of_memory(error)):
        return True
    if isinstance(error, torch.distributed.DistError | TimeoutError | ConnectionError | EOFError):
        return False
    if isinstance(error, OSError):
        return error.errno in _LASTING_ERRNOS
    if isinstance(error, RuntimeError):
        return not _CONNECTION.search(str(error)) or bool(_SHAPES.search(str(error)))
    return isinstance(error, Exception)


def explain(error: BaseException, config: FinetuneConfig, where: str) -> str:
    """One message of an error that comes again: what it was, what to do, where its traceback is."""
    if isinstance(error, UserError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines)[:500]}" if lines else type(error).__name__
    return (
        f"the training failed with {text}. {_advice(error, config)} It was not started again, as it would fail alike. "
        f"The traceback is in {where}. Run the same command to go on from the last checkpoint, if there is one."
    )


def _advice(error: BaseException, config: FinetuneConfig) -> str:
    if isinstance(error, MemoryError) or (isinstance(error, Exception) and is_out_of_memory(error)):
        return f"Memory ran out. {memory_advice(config)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space, or name another folder with --set scratch=FOLDER."
    if isinstance(error, OSError) and error.errno in _LASTING_ERRNOS:
        scratch = f"now {config.scratch}" if config.scratch else "now the folder of temporary files"
        return (
            "Check that path and this user's rights to it on every machine: it may belong to the model "
            f"({config.model}), to the images or to the scratch folder ({scratch}; --set scratch=FOLDER)."
        )
    if isinstance(error, ImportError):
        return "Install what is missing on every machine."
    if isinstance(error, IndexError) and "out of range" in str(error):
        return (
            f"A token or a position lies outside of the model's tables: the tokenizer of '{config.model}' may have "
            f"more tokens than its embeddings, or max_length (now {config.max_length}) more than its positions."
        )
    return (
        f"The model '{config.model}', method {config.method}, deepspeed {config.deepspeed} and precision "
        f"{config.precision} are what to look at first."
    )


def memory_advice(config: FinetuneConfig) -> str:
    """What makes a training need less memory."""
    rows = config.rows_per_forward
    fewer = f"--set micro_batch={_smaller(config)} (now {rows})" if rows > 1 else "--set max_length=N with a lower N"
    return (
        f"Try {fewer}, --set gradient_checkpointing=true, a lower max_length (now {config.max_length}), "
        "--deepspeed zero3 or more --workers."
    )


def _smaller(config: FinetuneConfig) -> int:
    """The next smaller micro-batch that divides a worker's rows of a step."""
    rows = config.batch_rows // config.workers
    return max(n for n in range(1, max(2, config.rows_per_forward)) if rows % n == 0)
