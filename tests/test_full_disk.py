"""A disk that is full in the middle of a stage: one clear error, and nothing that was committed is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARDS = 12

# Runs in a mount namespace of its own, where `folder` is a small disk.
PROGRAM = f"""
import errno, json, os, subprocess, sys
import numpy as np
import pyarrow as pa
from raycurate.run.lock import run_lock
from raycurate.run.store import Run

folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", folder], check=True)
noun = Run(folder + "/run").noun("features")

def make(shards):
    with run_lock(noun.run_uri):
        noun.begin({{"stage": "made"}})
        for shard in shards:
            rows = np.random.default_rng(shard).integers(0, 256, 80_000, dtype=np.uint8)
            noun.commit_part(shard, pa.table({{"rows": rows}}), rows_in=len(rows))

try:
    make(range({SHARDS}))
    error = None
except OSError as caught:
    error = caught.errno
before = {{shard: os.stat(noun.part_path(shard)).st_mtime_ns for shard in noun.records()}}
subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
missing = noun.missing({SHARDS})
make(missing)
after = {{shard: os.stat(noun.part_path(shard)).st_mtime_ns for shard in before}}
manifest = noun.finish()
left = [name for name in os.listdir(noun.folder) if name.startswith(".tmp")]
print(json.dumps({{"full": error == errno.ENOSPC, "before": len(before), "missing": len(missing),
    "kept": before == after, "rows": manifest.rows_out, "shards": manifest.shards, "left": left}}))
"""


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path):
    """The write that does not fit raises; with room again only the missing shards are made."""
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if "unshare: unshare failed" in done.stderr:
        pytest.skip("this machine allows no mount namespaces: no small disk can be made")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["full"]
    assert 0 < found["before"] < SHARDS
    assert found["missing"] == SHARDS - found["before"]
    assert found["kept"]
    assert (found["shards"], found["rows"], found["left"]) == (SHARDS, SHARDS * 80_000, [])
