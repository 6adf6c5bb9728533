"""Tests of every path that runs on a GPU, against the CPU's result. Needs torch and transformers, not Ray.

`make test-gpu`, or on a machine with a GPU alone `sh tests/gpu/run_all.sh`. Without a GPU all of them are skipped;
RAYCURATE_TEST_DEVICE=cpu rehearses them on a CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

DEVICE = os.environ.get("RAYCURATE_TEST_DEVICE", "cuda")
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Skip the tests of this folder where there is no GPU to run them on."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def device():
    """The device that is tested, its products set up as the stages do."""
    from raycurate.device import keep_wide_sums, use_device

    found = use_device(DEVICE != "cpu", "test")
    keep_wide_sums()
    return found


@pytest.fixture
def cuda(device):
    """The same, for what a CPU cannot rehearse."""
    if device.type != "cuda":
        pytest.skip("needs a GPU's allocator")
    return device


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The folder of the tiny model of a family, made once; skips what this transformers cannot build."""
    import transformers

    from tests.tiny_vlms import make_tiny_vlm

    made: dict[str, str] = {}

    def get(family: str) -> str:
        if family == "tiny":
            return "tiny"
        if family not in made:
            try:
                made[family] = str(make_tiny_vlm(family, tmp_path_factory.mktemp(family)))
            except (AttributeError, TypeError, ValueError, ImportError) as error:
                pytest.skip(f"transformers {transformers.__version__} cannot build {family}: {error}")
        return made[family]

    return get
