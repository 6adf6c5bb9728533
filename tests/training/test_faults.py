"""Errors that come again at every start are told from losses that pass."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest
import torch

from raycurate.errors import UserError
from raycurate.training.config import FinetuneConfig
from raycurate.training.faults import comes_again, explain

CONFIG = FinetuneConfig(batch_rows=32, workers=2)


def raised(call) -> BaseException:
    """The error of a call that fails."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any: it is what is judged
        call()
    return caught.value


def test_errors_of_code_settings_and_memory_come_again():
    """Real errors of torch, Python and this package, which no further start would mend."""
    errors = [
        raised(lambda: torch.ones(2, 3) @ torch.ones(2, 3)),
        raised(lambda: torch.ones(2, 3) + torch.ones(2, 4)),
        raised(lambda: torch.nn.Linear(2, 3).load_state_dict({"weight": torch.ones(9)}, strict=False)),
        raised(lambda: torch.empty(1 << 50)),
        raised(lambda: torch.ones(2).half() @ torch.ones(2)),
        raised(lambda: {}["missing"]),
        raised(lambda: None.missing),
        raised(lambda: int("x")),
        raised(lambda: torch.ones()),
        raised(Path("/missing/file").read_bytes),
        raised(lambda: pickle.loads(b"\x80")),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: device-side assert triggered"),
        MemoryError(),
        AssertionError(),
        OSError(errno.ENOSPC, "No space left on device"),
        UserError("a wrong setting"),
    ]
    assert [error for error in errors if not comes_again(error)] == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"),
        RuntimeError("[1] is setting up NCCL communicator: Socket Timeout"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
        torch.distributed.DistNetworkError("The client socket has failed to connect"),
        torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError(),
        OSError("When reading information for key 'a': AWS Error NETWORK_CONNECTION during HeadObject operation"),
        OSError(errno.EIO, "Input/output error"),
    ],
    ids=str,
)
def test_losses_may_pass(error):
    """A peer, a device or a connection that is lost: the next start may go well."""
    assert not comes_again(error)


def test_out_of_memory_says_what_to_change():
    """The present micro-batch, and a smaller one that divides the rows of a worker."""
    text = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), CONFIG, "runs/a/log")
    assert "Tried to allocate 20.00 GiB" in text
    assert "--set micro_batch=8 (now 16)" in text
    assert "not started again" in text
    assert "runs/a/log" in text


def test_out_of_memory_with_one_row_names_no_smaller_batch():
    """There is no micro-batch below one row."""
    text = explain(MemoryError(), CONFIG.model_copy(update={"micro_batch": 1}), "log")
    assert "micro_batch" not in text
    assert "gradient_checkpointing" in text


def test_settings_errors_are_told_as_they_are():
    """A `UserError` says itself what to do."""
    assert explain(UserError("give less"), CONFIG, "log") == "give less"


def test_a_path_that_cannot_be_used_is_not_blamed_on_the_precision():
    """A folder that is missing, or that may not be written, is named with what may lie there."""
    config = FinetuneConfig(model="tiny", scratch="/gone")
    told = explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone"), config, "LOG")
    assert "Check that path" in told
    assert "--set scratch=FOLDER" in told
    assert "precision" not in told


def test_a_token_outside_of_the_vocabulary_is_told_as_that():
    """What torch calls an index out of range is a tokenizer or a length that the model was not made for."""
    error = raised(lambda: torch.nn.Embedding(4, 2)(torch.tensor([9])))
    assert comes_again(error)
    assert "more tokens than its embeddings" in explain(error, CONFIG, "LOG")
