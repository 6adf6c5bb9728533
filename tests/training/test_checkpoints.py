"""Which checkpoint a training goes on from, and that a file of it holds data only."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from raycurate.errors import UserError
from raycurate.training.checkpoints import COMPLETE, checkpoint_name, complete_checkpoint, plain_data_only


class Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize(
    "marker", [{"checkpoint": "../../other"}, {"checkpoint": "/etc"}, {"checkpoint": 3}, {}, [], None, "checkpoint-1"]
)
def test_a_marker_names_a_checkpoint_only(marker):
    """A name that could point elsewhere is an error."""
    with pytest.raises(UserError, match="is no checkpoint"):
        checkpoint_name(marker)


def test_the_named_checkpoint_is_found(tmp_path):
    """None without a marker, or where the folder is gone."""
    assert complete_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / "checkpoint-12").mkdir(parents=True)
    marker = tmp_path / "checkpoints" / COMPLETE
    marker.write_text(json.dumps({"checkpoint": "checkpoint-12"}))
    assert complete_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / "checkpoint-12")
    marker.write_text(json.dumps({"checkpoint": "checkpoint-13"}))
    assert complete_checkpoint(tmp_path) is None


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_is_refused_whoever_asks_for_it(tmp_path, by_torch, monkeypatch):
    """Also by a library that asks torch for any pickle, and under an environment that allows any."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file, canary = tmp_path / "checkpoint-1" / "states.pt", tmp_path / "canary"
    file.parent.mkdir()
    if by_torch:
        torch.save(Canary(canary), file)
    else:
        file.write_bytes(pickle.dumps(Canary(canary)))
    with (
        pytest.raises(UserError, match="holds more than plain data"),
        plain_data_only(str(file.parent), deepspeed=False),
    ):
        torch.load(file, weights_only=False)
    assert not canary.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_plain_data_is_read(tmp_path):
    """Tensors and containers of them."""
    torch.save({"a": [torch.ones(2), 3]}, tmp_path / "states.pt")
    with plain_data_only(str(tmp_path), deepspeed=False):
        assert torch.load(tmp_path / "states.pt", weights_only=False)["a"][1] == 3


class ByGetattr:
    """Pickled as `getattr(kind, name)`, as Python 3.11.0 to 3.11.3 pickles the member of an enumeration."""

    def __init__(self, kind: object, name: str) -> None:
        self.kind, self.name = kind, name

    def __reduce__(self):
        return getattr, (self.kind, self.name)


def test_members_of_enumerations_are_data_however_they_are_pickled(tmp_path):
    """And `getattr` of anything else is code."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    file = tmp_path / "states.pt"
    torch.save({"stage": ByGetattr(ZeroStageEnum, "gradients")}, file)
    with plain_data_only(str(tmp_path), deepspeed=True):
        assert torch.load(file, weights_only=False) == {"stage": ZeroStageEnum.gradients}
    for kind, name in ((ZeroStageEnum, "__class__"), (ZeroStageEnum, "mro"), (LossScaler, "backward")):
        torch.save({"stage": ByGetattr(kind, name)}, file)
        with (
            pytest.raises(UserError, match="holds more than plain data.*GLOBAL getattr"),
            plain_data_only(str(tmp_path), deepspeed=True),
        ):
            torch.load(file, weights_only=False)
