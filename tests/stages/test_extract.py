"""extract on Ray Data equals the same batches run in this process; nothing is lost when things die."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from PIL import Image

from raycurate.config import ExtractConfig, IngestConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_of_table
from raycurate.run.manifest import fingerprint_of
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine import pool_here
from raycurate.stages.extract import extract
from raycurate.stages.ingest import ingest
from tests.nouns import read_all
from tests.tiny_vlms import SMALL_POOL as SETTINGS
from tests.tiny_vlms import make_tiny_vlm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random LLaVA on disk."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """150 rows over 40 images, some text-only, some of two turns."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    rows = []
    for i in range(150):
        mark = "" if i % 10 == 0 else "<image>\n"
        turns = [
            {"from": "human", "value": f"{mark}what is it {i}?"},
            {"from": "gpt", "value": "a thing " * (1 + i % 7)},
        ]
        row = {"id": i, "conversations": turns * (1 + (i % 5 == 0 and not mark)), "task": f"t{i % 3}"}
        rows.append({**row, "image": f"{i % 40}.png"} if mark else row)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def _ingested(folder, source) -> Run:
    run = Run(str(folder))
    settings = {"source": str(source / "rows.json"), "images": str(source), "rows_per_shard": 40}
    ingest(run, make_config(IngestConfig, settings))
    return run


def _features(run: Run) -> tuple[list[str], np.ndarray]:
    table = read_all(run.noun("features"))
    return table["key"].to_pylist(), features_of_table(table)


def _reference(run: Run, model: str, images: str) -> tuple[list[str], np.ndarray]:
    """The same windows through the same code, without Ray."""
    from raycurate.encoding.prepare import Preparer
    from raycurate.features.extractor import ActivationExtractor
    from raycurate.models.adapter import load_vlm
    from raycurate.samples.images import ImageRoot, load_image
    from raycurate.samples.schema import row_to_sample

    vlm = load_vlm(model, device="cpu", dtype="float32")
    extractor, preparer = ActivationExtractor(vlm), Preparer(vlm.processor, token_budget=600, max_rows=8)
    keys, features = [], []
    for part in run.noun("samples").iter_parts():
        rows = [row_to_sample(row) for row in part.to_pylist()]
        for start in range(0, len(rows), 16):
            window = rows[start : start + 16]
            prepared = preparer.prepare(
                [
                    {
                        "key": s.key,
                        "messages": [{"role": m.role, "text": m.text} for m in s.messages],
                        "images": [load_image(ImageRoot(images).read(i)) for i in s.images],
                        "image_keys": [i.identity for i in s.images],
                    }
                    for s in window
                ]
            )
            found = np.zeros((len(window), extractor.feature_dim), dtype=np.float16)
            for batch in prepared.batches:
                result = extractor.extract(batch)
                found[list(result.rows)] = result.features_ND
            keys += [s.key for s in window]
            features.append(found)
    return keys, np.concatenate(features)


@pytest.fixture(scope="module")
def calm(ray_cluster, tmp_path_factory, model, source):
    """A run with the features that one actor made undisturbed."""
    run = _ingested(tmp_path_factory.mktemp("calm"), source)
    extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS, "max_actors": 1}))
    return run


def test_the_stage_equals_the_loop(calm, model, source):
    """Features from loaders and an actor are those of the plain loop, row for row, and unit rows."""
    manifest = calm.noun("features").require("extract")
    keys, features_ND = _features(calm)
    expected_keys, expected_ND = _reference(calm, model, str(source))
    assert keys == expected_keys
    assert np.abs(features_ND.astype(np.float32) - expected_ND.astype(np.float32)).max() < 1e-3
    assert np.abs(np.linalg.norm(features_ND.astype(np.float64), axis=1) - 1).max() < 1e-3
    assert manifest.rows_in == manifest.rows_out == 150
    assert manifest.metrics["dimension"] == features_ND.shape[1]
    assert list(manifest.metrics["rows_by_node"].values()) == [150]


def test_actors_do_not_change_the_features(calm, tmp_path, model, source):
    """One actor or three: bit-equal rows in the same order."""
    run = _ingested(tmp_path / "run", source)
    extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS, "min_actors": 3, "max_actors": 3}))
    assert _features(run)[0] == _features(calm)[0]
    assert np.array_equal(_features(run)[1], _features(calm)[1])


def _without_a_cluster(monkeypatch) -> None:
    """From here on none is there, and none may be started."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a session was started"))


def test_few_rows_are_made_in_this_process_with_the_same_bits(calm, tmp_path, model, source, monkeypatch):
    """Without a session: parts of new rows behind those that stand, threads as they were, no fragment left."""
    _without_a_cluster(monkeypatch)
    run, config = _ingested(tmp_path / "run", source), make_config(ExtractConfig, {"model": model, **SETTINGS})
    threads = torch.get_num_threads()
    made = extract(run, config)
    assert read_all(run.noun("features")).equals(read_all(calm.noun("features")))
    assert (made.fingerprint, made.rows_out) == (calm.noun("features").require("extract").fingerprint, 150)
    assert made.estimated_seconds > 0
    assert torch.get_num_threads() == threads
    assert not (tmp_path / "run/features/main/fragments").exists()
    more = tmp_path / "more.json"
    more.write_text(json.dumps(json.loads((source / "rows.json").read_text(encoding="utf-8"))[:30]), encoding="utf-8")
    ingest(run, make_config(IngestConfig, {"source": str(more), "images": str(source), "append": True}))
    grown = read_all(run.noun("features")) if extract(run, config).rows_out == 180 else None
    assert grown.slice(0, 150).equals(read_all(calm.noun("features")))


def test_few_rows_of_much_work_are_left_to_a_session(tmp_path, model, source, monkeypatch):
    """What a core would work on for longer than a cluster takes to start."""
    _without_a_cluster(monkeypatch)
    monkeypatch.setattr(pool_here, "SECONDS_HERE", 0.0)
    run = _ingested(tmp_path / "run", source)
    asked = []

    @contextlib.contextmanager
    def session(config):
        asked.append(config.dashboard)
        yield

    monkeypatch.setattr(pool_here, "ray_session", session)
    extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS}))
    assert asked == [False]


def test_finished_features_are_found_without_loading_the_model(calm, tmp_path, model, monkeypatch):
    """No task runs for them, in whichever precision they were made; another file in the model's folder counts."""
    run = Run(str(shutil.copytree(calm.uri, tmp_path / "run")))
    made = run.noun("features").require("extract")
    made.description["inputs"]["dtype"] = "torch.bfloat16"
    made = replace(made, fingerprint=fingerprint_of(made.description))
    run.noun("features").write_json("manifest.json", asdict(made))
    config = make_config(ExtractConfig, {"model": model, **SETTINGS, "max_actors": 1})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a task was started")

    monkeypatch.setattr("raycurate.stages.extract.map_tasks", refuse)
    assert extract(run, config) == made
    other = Path(model) / "other.json"
    other.write_text("{}", encoding="utf-8")
    try:
        with pytest.raises(AssertionError, match="a task was started"):
            extract(run, config)
    finally:
        other.unlink()


def test_a_lost_image_is_one_quarantined_row(ray_cluster, tmp_path, model, source):
    """An image that vanished after ingest costs its rows only, with the reason and the position."""
    images = tmp_path / "images"
    images.mkdir()
    for path in source.glob("*"):
        (images / path.name).write_bytes(path.read_bytes())
    run = _ingested(tmp_path / "run", images)
    (images / "7.png").unlink()
    manifest = extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS}))
    lost = sum(1 for row in read_all(run.noun("samples"))["images"].to_pylist() if row and row[0]["path"] == "7.png")
    assert lost > 0
    assert manifest.quarantined == {"undecodable_image": lost}
    assert manifest.rows_out == 150 - lost
    strict = make_config(ExtractConfig, {"model": model, **SETTINGS, "strict": True, "layers": [0], "label": "strict"})
    with pytest.raises(UserError, match="--strict"):
        extract(run, strict)


def test_many_lost_images_fail_and_a_rerun_that_allows_them_only_finishes(ray_cluster, tmp_path, model, source):
    """All images gone: no features of the text-only rows alone, unless asked for; the rows are not done twice."""
    images = Path(shutil.copytree(source, tmp_path / "images"))
    run = _ingested(tmp_path / "run", images)
    for path in images.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"135 of 150 rows were rejected \(undecodable_image 135\).*max_rejected=1"):
        extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS}))
    assert run.noun("features").manifest() is None
    parts = [Path(run.noun("features").part_path(shard)) for shard in range(4)]
    written = [part.stat().st_mtime_ns for part in parts]
    manifest = extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS, "max_rejected": 1}))
    assert manifest.rows_out == 15
    assert [part.stat().st_mtime_ns for part in parts] == written


def test_a_model_that_cannot_be_used_is_one_message(ray_cluster, tmp_path, source):
    """A wrong path fails before any actor starts."""
    run = _ingested(tmp_path / "run", source)
    with pytest.raises(UserError, match="there is no model folder .*none"):
        extract(run, make_config(ExtractConfig, {"model": str(tmp_path / "none")}))


def _kill_an_actor(run: Run, killed: list[int], stop: threading.Event) -> None:
    """kill -9 an extraction actor as soon as the rows of a batch are there: most are still to come."""
    folder = Path(run.noun("features").folder)
    while not stop.is_set() and not list(folder.glob("*/*.arrow")):
        time.sleep(0.002)
    for process in psutil.Process().children(recursive=True):  # of this process's cluster alone
        with contextlib.suppress(psutil.NoSuchProcess):
            if "MapWorker(MapBatches(ExtractionActor))" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return


def _struck(folder: Path, model: str, source: Path) -> tuple[Run, list[int]]:
    """Extract while an actor is killed; the run, and the actors that were killed before the stage was done."""
    run = _ingested(folder, source)
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=_kill_an_actor, args=(run, killed, stop))
    killer.start()
    extract(run, make_config(ExtractConfig, {"model": model, **SETTINGS}))
    stop.set()
    killer.join()
    return run, killed


@pytest.mark.slow
def test_a_killed_actor_changes_nothing(calm, tmp_path, model, source):
    """kill -9 of an extraction actor: the stage ends with all rows and the same features."""
    # The actor of a quick machine may be gone before it can be killed; then the test has to be had again.
    tries = (_struck(tmp_path / str(number), model, source) for number in range(4))
    run = next((run for run, killed in tries if killed), None)
    assert run is not None, "no actor was killed: the test did not test"
    assert _features(run)[0] == _features(calm)[0]
    assert np.array_equal(_features(run)[1], _features(calm)[1])
