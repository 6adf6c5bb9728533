"""Device mistakes are found without a GPU: `fake_device.py`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = 9


def test_nothing_stays_on_the_cpu_beside_a_gpu():
    """Its tests pass, and none was left out."""
    file = Path(__file__).with_name("fake_device.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{TESTS} passed" in done.stdout
