"""Stages and the lock of their run: drivers take it, worker processes work under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from raycurate import ray_session as session_module
from raycurate.config import IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.ray_session import in_session, object_store_bytes
from raycurate.run.lock import run_lock
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.shards import map_tasks
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests.nouns import read_all, write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case


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


ALONE = """
import sys

import ray

from raycurate.config import IngestConfig, SelectConfig
from raycurate.settings import make_config
from raycurate.run.store import Run
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select


def refuse(*_, **__):
    raise AssertionError("a cluster was started")


ray.init = refuse
folder, source = sys.argv[1:]
ingest(Run(folder), make_config(IngestConfig, {"source": source, "label": "read"}))
select(Run(folder), make_config(SelectConfig, {"method": "coincide", "ratio": 0.3}))
select(Run(folder), make_config(SelectConfig, {"method": "balanced", "ratio": 0.3, "label": "balanced"}))
"""


def test_small_work_stays_in_the_process_with_the_same_result(ray_cluster, tmp_path):
    """Ingest, rank and select of a few rows start no cluster where none is named, and write what a cluster writes."""
    case = clustered_case(3, rows=60, clusters=4)
    rows = [
        {"id": i, "conversations": [{"from": "human", "value": f"q {i}"}, {"from": "gpt", "value": "a"}]}
        for i in range(9)
    ]
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows))
    for name in ("alone", "cluster"):
        run = Run(str(tmp_path / name))
        write_samples(run, case.keys, [f"task {i % 3}" for i in range(60)], shards=2)
        write_features(run, case.keys, case.features, shards=2, block_dim=case.block_dim)
        write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=2)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", ALONE, str(tmp_path / "alone"), str(source)]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    run = Run(str(tmp_path / "cluster"))
    ingest(run, make_config(IngestConfig, {"source": str(source), "label": "read"}))
    select(run, make_config(SelectConfig, {"method": "coincide", "ratio": 0.3}))
    select(run, make_config(SelectConfig, {"method": "balanced", "ratio": 0.3, "label": "balanced"}))
    for noun, label in (("samples", "read"), ("ranking", "main"), ("selection", "main"), ("selection", "balanced")):
        found = [Run(str(tmp_path / name)).noun(noun, label) for name in ("alone", "cluster")]
        assert read_all(found[0]).equals(read_all(found[1]))
        assert found[0].require("test").fingerprint == found[1].require("test").fingerprint


@pytest.mark.parametrize(
    ("gpus", "memory_gib", "shm_gib", "expected_gib"),
    [
        (0, 512, 256, 2),
        (0, 4, 2, 0.4),
        (8, 512, 256, 153.6),
        (8, 512, 64, 57.6),
        (1, 16, 8, 4.8),
        (1, 0.1, 0.05, 0.125),
    ],
)
def test_the_object_store_of_a_machine_with_gpus_is_large(monkeypatch, gpus, memory_gib, shm_gib, expected_gib):
    """30 % of its memory within its shared memory; without GPUs 2 GiB at most."""
    memory = SimpleNamespace(total=int(memory_gib * 2**30), available=int(memory_gib * 2**30))
    monkeypatch.setattr(session_module.psutil, "virtual_memory", lambda: memory)
    disk = SimpleNamespace(free=int(shm_gib * 2**30))
    monkeypatch.setattr(session_module.psutil, "disk_usage", lambda path: disk)
    assert object_store_bytes(gpus) == pytest.approx(expected_gib * 2**30, rel=1e-6)
