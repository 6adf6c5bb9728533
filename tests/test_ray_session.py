"""Stages and the lock of their run: drivers take it, worker processes work under it."""

from __future__ import annotations

import threading

import pytest

from raycurate.errors import UserError
from raycurate.ray_session import in_session
from raycurate.run.lock import run_lock
from raycurate.run.store import Run
from raycurate.stages.engine.shards import map_tasks


@pytest.fixture
def write_note():
    """A stage. It is made here so that it travels to workers by value: they cannot import this file."""

    @in_session
    def stage(run: Run) -> str:
        run.noun("notes").write_json("note.json", {})
        return run.uri

    return stage


def test_a_stage_in_a_worker_process_works_under_its_drivers_lock(ray_cluster, tmp_path, write_note):
    run = Run(str(tmp_path))
    with run_lock(run.uri):
        assert list(map_tasks(write_note, [(run,)], num_cpus=0.5)) == [run.uri]
        assert write_note(run) == run.uri  # a stage inside a stage


def test_a_stage_is_refused_while_another_job_holds_the_run(ray_cluster, tmp_path, write_note):
    run = Run(str(tmp_path))
    refused = []

    def other_job() -> None:
        with pytest.raises(UserError, match="in use by another job") as caught:
            write_note(run)
        refused.append(caught)

    with run_lock(run.uri):
        thread = threading.Thread(target=other_job)
        thread.start()
        thread.join()
    assert refused
    assert not (tmp_path / "notes").exists()
    write_note(run)
