"""Tasks by shard: what an error leaves behind."""

from __future__ import annotations

import contextlib
import os
import time

import numpy as np
import psutil
import pytest

from raycurate.config import PoolConfig
from raycurate.errors import UserError
from raycurate.run.manifest import ShardRecord
from raycurate.run.progress import Progress
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.actor_pool import PLACE, actor_lines, commit_shards
from raycurate.stages.engine.shards import map_here, map_tasks, resumable_steps, run_missing_shards, step_name


@pytest.fixture
def fail_beside_a_long_task(tmp_path):
    """A task: number 0 tells its process and works on for minutes, the others fail once 0 is at work."""

    def task(number: int, *_: object) -> None:
        told = tmp_path / "pid"
        if number == 0:
            (tmp_path / "pid.part").write_text(str(os.getpid()))
            os.rename(tmp_path / "pid.part", told)
            time.sleep(300)
        while not told.exists():
            time.sleep(0.05)
        raise UserError("a task has failed")

    return task


def works_still(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def ends_at_once(pid: int) -> bool:
    """Ray tells of a killed process when its sockets close; the system takes it off the list a little later."""
    deadline = time.monotonic() + 5
    while works_still(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not works_still(pid)


def test_an_error_ends_the_other_tasks_before_it_is_raised(ray_cluster, tmp_path, fail_beside_a_long_task):
    with pytest.raises(UserError, match="a task has failed"):
        list(map_tasks(fail_beside_a_long_task, [(0,), (1,)], num_cpus=0.5))
    assert ends_at_once(int((tmp_path / "pid").read_text()))


def test_a_rejected_row_of_a_strict_stage_ends_its_other_tasks(ray_cluster, tmp_path, fail_beside_a_long_task):
    def make_shard(number: int) -> ShardRecord:
        with contextlib.suppress(UserError):
            fail_beside_a_long_task(number)
        return ShardRecord(shard=number, rows_in=1, rows_out=0, quarantined={"broken": 1})

    noun = Run(str(tmp_path / "run")).noun("notes")
    noun.begin({})
    with pytest.raises(UserError, match="--strict: 1 rows of shard 1"):
        run_missing_shards("stage", noun, make_shard, num_shards=2, total_rows=2, strict=True, num_cpus=0.5)
    assert ends_at_once(int((tmp_path / "pid").read_text()))


def test_a_failed_commit_ends_the_other_commits_and_the_pool(ray_cluster, tmp_path, fail_beside_a_long_task):
    """There are shards for minutes, so that the pool is at work when the commit of the second one fails."""
    import pyarrow as pa

    place = dict.fromkeys(PLACE, 0) | {"batches": 1, "windows": 1}

    def load(shards: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([{**place, **row} for row in shards.to_pylist()])

    class Actor:
        def __call__(self, batch: pa.Table) -> pa.Table:
            (row,) = batch.to_pylist()
            (tmp_path / f"actor-{os.getpid()}").touch()
            time.sleep(0.5 if row["shard"] > 1 else 0)
            return pa.Table.from_pylist([{**row, "rows": 1, "finished": time.time(), "node": ""}])

    config = make_config(PoolConfig, {"max_actors": 1, "cpus_per_actor": 0.5})
    dataset = actor_lines(list(range(400)), load, Actor, {}, config, 0, 1 << 20)
    with pytest.raises(UserError, match="a task has failed"), Progress("stage", 400) as progress:
        commit_shards(dataset, fail_beside_a_long_task, progress, strict=False)
    assert ends_at_once(int((tmp_path / "pid").read_text()))
    actors = [int(path.name.removeprefix("actor-")) for path in tmp_path.glob("actor-*")]
    assert actors
    deadline = time.monotonic() + 30
    while any(map(works_still, actors)):
        assert time.monotonic() < deadline, "the pool is at work after the stage has failed"
        time.sleep(0.1)


def test_a_step_that_ended_is_read_and_the_others_are_made(s3, monkeypatch):
    """A rerun makes what is missing; on a store a step is one request, and what is there one listing."""
    noun = Run("s3://bucket/steps/run").noun("ranking")
    made = []

    def make(number: int, value: str) -> dict[str, object]:
        made.append(number)
        return {"pair": (number, value)}

    values = [(name,) for name in "abcd"]
    monkeypatch.setattr("raycurate.stages.engine.shards.map_tasks", map_here)
    for number in (0, 2):
        noun.write_json(step_name("routed", number, "json"), {"pair": [number, "kept"]})
    s3.requests.clear()
    found = dict(resumable_steps(noun, "routed", make, values))
    assert made == [1, 3]
    assert found == {0: {"pair": [0, "kept"]}, 1: {"pair": [1, "b"]}, 2: {"pair": [2, "kept"]}, 3: {"pair": [3, "d"]}}
    assert sorted(line.split()[0] for line in s3.requests) == ["GET"] * 3 + ["HEAD"] * 2 + ["PUT"] * 2
    assert dict(resumable_steps(noun, "routed", make, values)) == found
    assert made == [1, 3]


def test_a_function_may_hold_more_than_ray_takes_for_code(ray_cluster):
    """100 MiB of cells in a closure: Ray refuses functions above 95 MiB, objects it does not."""
    held = np.arange(100 << 17, dtype=np.int64)
    assert list(map_tasks(lambda place: int(held[place]), [(7,), (held.size - 1,)], num_cpus=0.5)) == [7, held.size - 1]
