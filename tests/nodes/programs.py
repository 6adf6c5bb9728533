"""Programs that start clusters of their own, run beside pytest's process, which may have one already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def output_of(program: str, folder: Path) -> dict[str, Any]:
    """The JSON object that a program of this folder leaves in `FOLDER/found.json`.

    Its output is no place for it: the processes of a node that is killed write there as well.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_health_check_period_ms": "1000"}
    environment["RAY_AUTH_MODE"] = "disabled"  # a program that wants tokens sets its own
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for `ray` and `python`
    environment["RAY_worker_niceness"] = "0"  # else the workers wait behind whatever this machine does besides
    environment["RAY_idle_worker_killing_time_threshold_ms"] = "60000"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads((folder / "found.json").read_text(encoding="utf-8")))
