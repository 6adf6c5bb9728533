"""Every stage, one thing changed: what determines its result has it made again or refused, all else finds it done.

All stages run once, really, in one small run directory; each case works on a copy of it. Whether a stage makes its
result again is seen where it begins to: there the case ends. What was lost is made again to the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycurate.cleaning.config import DecontaminateConfig, DedupConfig
from raycurate.cli.support import told_before
from raycurate.config import ClusterConfig, ExportConfig, ExtractConfig, IngestConfig, ScoreConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.evaluation.config import CompareConfig, EvaluateConfig
from raycurate.experiments.compare import compare
from raycurate.experiments.engine import lines, trials
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.probes import Probe, _key
from raycurate.experiments.sweep import sweep
from raycurate.models.source import image_backend, model_fingerprint
from raycurate.run.manifest import fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages.cluster import cluster
from raycurate.stages.decontaminate import decontaminate
from raycurate.stages.dedup import dedup
from raycurate.stages.engine import lineage
from raycurate.stages.engine.shards import map_here
from raycurate.stages.engine.status import status
from raycurate.stages.evaluate import evaluate
from raycurate.stages.export import export
from raycurate.stages.extract import extract
from raycurate.stages.finetune import finetune
from raycurate.stages.ingest import ingest
from raycurate.stages.score import score
from raycurate.stages.select import select
from raycurate.stages.table import NOUNS, STAGES
from raycurate.training.config import FinetuneConfig
from tests.nouns import read_all
from tests.tiny_vlms import make_tiny_vlm

ROWS, IMAGES = 24, 6
POOL = {"max_actors": 1, "cpus_per_actor": 0.5, "cpus_per_loader": 0.5, "window_rows": 12, "dtype": "float32"}
TRAINING = {"method": "projector", "max_steps": 1, "batch_rows": 4, "trackers": [], "threads": 1}
ANSWERS = {"max_new_tokens": 2, "dtype": "float32"}
METHOD = "from raycurate.selection.methods.random import Random\n\n\nclass Own(Random):\n    pass\n"
METRIC = "def same(predictions, references, meta):\n    return 0.5\n"
JUDGE = "import json, sys\n\njson.dump({'mme': {'acc': 0.5}}, open(sys.argv[2] + '/r.json', 'w'))\n"
BEGINNERS = (
    *(
        "ingest",
        "extract",
        "score",
        "score_given",
        "cluster",
        "cleaning.prints",
        "dedup",
        "decontaminate",
        "rank",
        "select",
    ),
    *("select", "tokenize", "finetune", "evaluate", "sketch"),
)


class MadeAgain(Exception):
    """A stage began to make this noun."""


@dataclasses.dataclass(frozen=True)
class Made:
    """Files of a user's, and a run directory that is made from them."""

    files: Path
    run: Run

    def ask(self, stage: str, **settings: Any) -> Any:
        """Run a stage, always with the same line but for `settings`."""
        return getattr(self, stage)(**settings)

    def ingest(self, **settings):
        values = {"source": self.files / "rows.json", "images": self.files / "images", "rows_per_shard": 12}
        return ingest(self.run, make_config(IngestConfig, {**_text(values), **settings}))

    def ingest_test(self, **settings):
        return self.ingest(**{"source": str(self.files / "test.json"), "label": "test", **settings})

    def extract(self, **settings):
        return extract(self.run, make_config(ExtractConfig, {"model": str(self.files / "model"), **POOL, **settings}))

    def score(self, **settings):
        values = {"model": str(self.files / "model"), "blind": False, **POOL, **settings}
        return score(self.run, make_config(ScoreConfig, values))[0]

    def given(self, **settings):
        return score(self.run, make_config(ScoreConfig, {"given": str(self.files / "given.parquet"), **settings}))[0]

    def cluster(self, **settings):
        return cluster(self.run, make_config(ClusterConfig, {"clusters": 3, "workers": 1, **settings}))

    def dedup(self, **settings):
        return dedup(self.run, make_config(DedupConfig, settings))

    def decontaminate(self, **settings):
        own = {"samples": "test", "against": "main", **settings}
        return decontaminate(self.run, make_config(DecontaminateConfig, own))

    def select(self, **settings):
        return select(self.run, make_config(SelectConfig, {"method": "coincide", "ratio": 0.5, **settings}))

    def select_own(self, **settings):
        own = {"method": "matrix_method:Own", "label": "own", "ratio": 0.5, **settings}
        return select(self.run, make_config(SelectConfig, own), map_here)

    def select_weighed(self, **settings):
        weights = {"task_weights": str(self.files / "weights.json"), "envelope": "0.5,2,0.3", **settings}
        return select(self.run, make_config(SelectConfig, {"label": "weighed", "ratio": 0.5, **weights}))

    def export(self, **settings):
        return export(self.run, make_config(ExportConfig, {"out": str(self.files / "out.json"), **settings}))

    def finetune(self, **settings):
        values = {"model": str(self.files / "model"), "selection": "main", **TRAINING, **settings}
        return finetune(self.run, make_config(FinetuneConfig, values), in_process=True)

    def finetune_ordered(self, **settings):
        return self.finetune(**{"order": "curriculum", "order_by": "loss", "label": "ordered", **settings})

    def evaluate(self, **settings):
        own = {"metrics": {"*": "matrix_metric:same"}, "annotations": str(self.files / "annotations.jsonl")}
        values = {"model": str(self.files / "model"), "data": "test", **own, **ANSWERS, **settings}
        return evaluate(self.run, make_config(EvaluateConfig, values), in_process=True)

    def evaluate_trained(self, **settings):
        values = {"model": "models/main", "data": "test", "label": "trained", **ANSWERS, **settings}
        return evaluate(self.run, make_config(EvaluateConfig, values), in_process=True)

    def evaluate_outside(self, **settings):
        command = f"{sys.executable} {self.files / 'judge.py'} {{model}} {{output}}"
        values = {"model": str(self.files / "model"), "command": command, "label": "outside", **settings}
        return evaluate(self.run, make_config(EvaluateConfig, values), in_process=True)

    def compare(self, **settings):
        training = {**TRAINING, "model": str(self.files / "model")}
        values = {"methods": ("random",), "seeds": (0,), "ratio": 0.5, "finetune": training, "evaluate": ANSWERS}
        return compare(self.run, make_config(CompareConfig, {**values, **settings}))

    def sweep(self, **settings):
        values = {"methods": ["random"], "ratios": [0.25], "frequencies": 4, "label": "matrix", **settings}
        return sweep(self.run, make_config(SweepConfig, values))


CHAIN = (
    "ingest",
    "ingest_test",
    "extract",
    "score",
    "given",
    "cluster",
    "dedup",
    "decontaminate",
    "select",
    "select_own",
    "select_weighed",
    "export",
    "finetune",
    "finetune_ordered",
    "evaluate",
    "evaluate_trained",
    "evaluate_outside",
    "compare",
    "sweep",
)


def _text(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _write_rows(path: Path, first: int, count: int) -> None:
    rows = []
    for i in range(first, first + count):
        turns = [{"from": "human", "value": f"<image>\nwhat {i}?"}, {"from": "gpt", "value": f"it is {i:02d}"}]
        rows.append({"id": i, "image": f"{i % IMAGES}.png", "conversations": turns, "task": "ab"[i % 2]})
    path.write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture(scope="module")
def base(ray_cluster, tmp_path_factory) -> Iterator[Made]:
    """Everything made once."""
    files = tmp_path_factory.mktemp("matrix")
    made = Made(files, Run(str(files / "run")))
    make_tiny_vlm("llava", files / "model", layers=2)
    (files / "images").mkdir()
    for i in range(IMAGES):
        Image.new("RGB", (24, 24), (40 * i, 10, 10)).save(files / "images" / f"{i}.png")
    _write_rows(files / "rows.json", 0, ROWS)
    _write_rows(files / "test.json", 50, 4)
    (files / "matrix_method.py").write_text(METHOD)
    (files / "weights.json").write_text(json.dumps({"a": 1.0, "b": 2.0}))
    (files / "matrix_metric.py").write_text(METRIC)
    (files / "judge.py").write_text(JUDGE)
    (files / "annotations.jsonl").write_text(json.dumps({"id": "50", "references": ["it is 50"]}) + "\n")
    sys.path.insert(0, str(files))
    patch = pytest.MonkeyPatch()
    patch.setattr(lines, "finetune", lambda run, config, **_: finetune(run, config, in_process=True))
    patch.setattr(lines, "evaluate", lambda run, config, **_: evaluate(run, config, in_process=True))
    made.ingest()
    (files / "given.parquet").write_bytes(_numbers(read_all(made.run.noun("samples"))["key"], 0))
    for stage in CHAIN[1:]:
        made.ask(stage)
    yield made
    patch.undo()
    sys.path.remove(str(files))
    _start_again()


@pytest.fixture
def made(base, tmp_path) -> Made:
    """A copy of the run directory, made from the same files."""
    shutil.copytree(base.files / "run", tmp_path / "copy")
    return dataclasses.replace(base, run=Run(str(tmp_path / "copy")))


@pytest.fixture
def begins(monkeypatch) -> None:
    """A stage that begins to make a noun, or a trial, ends there."""

    def begin(noun: Noun, description: Any, **settings: Any) -> None:
        lineage.begin(noun, description, **settings)
        raise MadeAgain(f"{noun.noun}/{noun.label}")

    def fit(_tuner: Any) -> None:
        raise MadeAgain("a trial")

    for name in BEGINNERS:
        monkeypatch.setattr(importlib.import_module(f"raycurate.stages.{name}"), "begin", begin)
    monkeypatch.setattr(trials, "_fit", fit)


def _start_again() -> None:
    """Forget a user's modules, as another process does not have them yet."""
    for name in ("matrix_method", "matrix_metric"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


# what changes: each puts the files of the user back


Change = Callable[[Made, pytest.MonkeyPatch], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _edited(path: Path, edit: Callable[[bytes], bytes]) -> Iterator[None]:
    """Other content of the same size, with the old time put back."""
    before, times = path.read_bytes(), path.stat()
    after = edit(before)
    assert after != before
    assert len(after) == len(before)
    try:
        for data in (after, before):
            path.write_bytes(data)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            _start_again()
            if data is after:
                yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _named(change: Change, name: str) -> Change:
    change.__name__ = name
    return change


def file(name: str, old: bytes = b"", new: bytes = b"") -> Change:
    """A file of the user's: a text in it, or one bit in its middle."""

    def edit(data: bytes) -> bytes:
        if old:
            return data.replace(old, new, 1)
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    def change(made: Made, _: Any) -> contextlib.AbstractContextManager[None]:
        return _edited(made.files / name, edit)

    return _named(change, Path(name).name)


def numbers(made: Made, _: Any) -> contextlib.AbstractContextManager[None]:
    """Other given numbers."""
    path = made.files / "given.parquet"
    return _edited(path, lambda _: _numbers(pq.read_table(path)["key"], 1))


def _numbers(keys: Any, first: int) -> bytes:
    """A file of given numbers, in as many bytes whichever is the first."""
    numbers = [(first + i) % ROWS / ROWS for i in range(ROWS)]
    sink = pa.BufferOutputStream()
    table = pa.table({"key": keys, "difficulty": numbers})
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


@contextlib.contextmanager
def image(made: Made, _: Any) -> Iterator[None]:
    """One image, with another colour."""
    path = made.files / "images" / "3.png"
    before, times = path.read_bytes(), path.stat()
    Image.new("RGB", (24, 24), (7, 70, 7)).save(path)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def lost(noun: str, name: str, harm: str = "gone") -> Change:
    """A file of a finished noun."""

    @contextlib.contextmanager
    def change(made: Made, _: Any) -> Iterator[None]:
        (path,) = Path(made.run.uri, noun).glob(name)
        if harm == "gone":
            path.unlink()
        else:
            os.truncate(path, path.stat().st_size // 2 if harm == "cut" else 0)
        yield

    return _named(change, f"{name} {harm}")


def version(stage: str) -> Change:
    """The code of a stage."""

    @contextlib.contextmanager
    def change(_: Made, patch: pytest.MonkeyPatch) -> Iterator[None]:
        row = STAGES[stage]
        patch.setitem(STAGES, stage, dataclasses.replace(row, version=row.version + 1))
        yield

    return _named(change, f"version of {stage}")


def otherwise(noun: str) -> Change:
    """A noun as if it had been made with another setting."""

    @contextlib.contextmanager
    def change(made: Made, _: Any) -> Iterator[None]:
        path = Path(made.run.uri, noun, "manifest.json")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["description"]["config"] = {**manifest["description"].get("config", {}), "seed": 4711}
        manifest["fingerprint"] = fingerprint_of(manifest["description"])
        path.write_text(json.dumps(manifest), encoding="utf-8")
        yield

    return _named(change, f"{noun} otherwise")


@contextlib.contextmanager
def backend(_: Made, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library that resizes images."""
    for name in ("extract", "score", "tokenize", "evaluate"):
        patch.setattr(f"raycurate.stages.{name}.image_backend", lambda: "another")
    yield


WEIGHTS = file("model/model.safetensors")
TEMPLATE = file("model/chat_template.jinja", b"upper", b"lower")
ROW = file("rows.json", b"it is 07", b"it is 70")
TEST_ROW = file("test.json", b"it is 51", b"it is 15")
EARLIER = "was made from an earlier '{}'"
ORPHANED = "was made by an earlier version of `{}`"
OTHER = "is there with other settings"
REPLACED = "1 images of 'samples/{}' were replaced"
NOT_WHOLE = "'{}' is not whole: 1 of its files is gone or cut short"

AGAIN: list[tuple[str, Any, str]] = [
    ("ingest", ROW, "samples/main"),
    ("ingest", image, "samples/main"),
    ("ingest", version("ingest"), "samples/main"),
    ("ingest", lost("samples/main", "part-00001.parquet"), "samples/main"),
    ("ingest", lost("samples/main", "part-00000.parquet", "cut"), "samples/main"),
    ("ingest", {"max_chars": 1000}, OTHER),
    ("ingest_test", TEST_ROW, "samples/test"),
    ("extract", WEIGHTS, "features/main"),
    ("extract", TEMPLATE, "features/main"),
    ("extract", image, REPLACED.format("main")),
    ("extract", otherwise("samples/main"), "features/main"),
    ("extract", version("extract"), "features/main"),
    ("extract", version("ingest"), ORPHANED.format("ingest")),
    ("extract", backend, "features/main"),
    ("extract", lost("features/main", "part-00001.parquet"), "features/main"),
    ("extract", lost("features/main", "records/00001.json"), "features/main"),
    ("extract", lost("samples/main", "part-00001.parquet", "cut"), NOT_WHOLE.format("samples/main")),
    ("extract", {"layers": [1]}, OTHER),
    ("score", WEIGHTS, "row_scores/token_losses"),
    ("score", image, REPLACED.format("main")),
    ("score", otherwise("samples/main"), "row_scores/token_losses"),
    ("score", version("score"), "row_scores/token_losses"),
    ("score", backend, "row_scores/token_losses"),
    ("score", lost("row_scores/token_losses", "part-00000.parquet", "cut"), "row_scores/token_losses"),
    ("score", {"max_length": 1000}, OTHER),
    ("given", numbers, "row_scores/given"),
    ("given", otherwise("samples/main"), "row_scores/given"),
    ("given", lost("row_scores/given", "part-00000.parquet"), "row_scores/given"),
    ("cluster", otherwise("features/main"), "clusters/main"),
    ("cluster", otherwise("samples/main"), EARLIER.format("samples/main")),
    ("cluster", version("cluster"), "clusters/main"),
    ("cluster", version("extract"), ORPHANED.format("extract")),
    ("cluster", lost("clusters/main", "centroids.parquet"), "clusters/main"),
    ("cluster", lost("features/main", "part-00000.parquet"), NOT_WHOLE.format("features/main")),
    ("cluster", {"seed": 1}, OTHER),
    ("dedup", otherwise("samples/main"), "prints/main"),
    ("dedup", otherwise("prints/main"), OTHER),
    ("dedup", image, REPLACED.format("main")),
    ("dedup", version("prints"), "prints/main"),
    ("dedup", version("dedup"), "marks/dedup"),
    ("dedup", version("ingest"), ORPHANED.format("ingest")),
    ("dedup", lost("prints/main", "part-00001.parquet"), "prints/main"),
    ("dedup", lost("marks/dedup", "part-00001.parquet", "cut"), "marks/dedup"),
    ("dedup", lost("marks/dedup", "summary.json", "emptied"), "marks/dedup"),
    ("dedup", {"distance": 3}, "marks/dedup"),
    ("dedup", {"clusters": "main"}, "marks/dedup"),
    ("decontaminate", otherwise("samples/main"), "prints/main"),
    ("decontaminate", otherwise("prints/main"), OTHER),
    ("decontaminate", image, REPLACED.format("test")),
    ("decontaminate", version("decontaminate"), "marks/decontaminate"),
    ("decontaminate", lost("marks/decontaminate", "part-00000.parquet"), "marks/decontaminate"),
    ("decontaminate", {"overlap": 0.5}, "marks/decontaminate"),
    ("select", otherwise("marks/dedup"), "selection/main"),
    ("select", version("dedup"), ORPHANED.format("dedup")),
    ("select", lost("marks/dedup", "part-00000.parquet"), NOT_WHOLE.format("marks/dedup")),
    ("select", {"marks": []}, "selection/main"),
    ("select", otherwise("clusters/main"), "ranking/main"),
    ("select", otherwise("features/main"), EARLIER.format("features/main")),
    ("select", otherwise("ranking/main"), "selection/main"),
    ("select", version("rank"), "ranking/main"),
    ("select", version("select"), "selection/main"),
    ("select", version("cluster"), ORPHANED.format("cluster")),
    ("select", lost("ranking/main", "part-00001.parquet"), "ranking/main"),
    ("select", lost("ranking/main", "clusters.parquet", "emptied"), "ranking/main"),
    ("select", lost("selection/main", "part-00001.parquet", "cut"), "selection/main"),
    ("select", lost("clusters/main", "centroids.parquet"), NOT_WHOLE.format("clusters/main")),
    ("select", {"ratio": 0.25}, "selection/main"),
    ("select_own", file("matrix_method.py", b"pass", b"1234"), "selection/own"),
    ("select_weighed", file("weights.json", b"2.0", b"3.0"), "selection/weighed"),
    ("select_weighed", {"envelope": None}, "selection/weighed"),
    ("select_weighed", {"task_power": 0.5}, "selection/weighed"),
    ("select_weighed", otherwise("ranking/by-task"), "selection/weighed"),
    ("select_weighed", otherwise("clusters/main"), "ranking/by-task"),
    ("select_weighed", lost("ranking/by-task", "cells.parquet", "emptied"), "ranking/by-task"),
    ("export", otherwise("samples/main"), EARLIER.format("samples/main")),
    ("export", version("select"), ORPHANED.format("select")),
    ("export", lost("selection/main", "part-00000.parquet"), NOT_WHOLE.format("selection/main")),
    ("finetune", WEIGHTS, "tokens/"),
    ("finetune", TEMPLATE, "tokens/"),
    ("finetune", image, REPLACED.format("main")),
    ("finetune", backend, "tokens/"),
    ("finetune", otherwise("selection/main"), "tokens/"),
    ("finetune", otherwise("samples/main"), EARLIER.format("samples/main")),
    ("finetune", version("tokenize"), "tokens/"),
    ("finetune", version("finetune"), "models/main"),
    ("finetune", version("select"), ORPHANED.format("select")),
    ("finetune", lost("tokens", "main-*/part-00000.parquet"), "tokens/"),
    ("finetune", lost("models/main", "final/model.safetensors"), "models/main"),
    ("finetune", lost("models/main", "final/model.safetensors", "emptied"), "models/main"),
    ("finetune", lost("models/main", "history.json"), "models/main"),
    ("finetune", {"weights": {"a": 1.0, "b": 2.0}}, OTHER),
    ("finetune", {"order": "curriculum"}, OTHER),
    ("finetune_ordered", otherwise("row_scores/token_losses"), "models/ordered"),
    ("finetune_ordered", version("score"), ORPHANED.format("score")),
    ("finetune_ordered", {"order": "interleaved"}, OTHER),
    ("evaluate", WEIGHTS, "predictions/main"),
    ("evaluate", image, REPLACED.format("test")),
    ("evaluate", backend, "predictions/main"),
    ("evaluate", otherwise("samples/test"), "predictions/main"),
    ("evaluate", version("predict"), "predictions/main"),
    ("evaluate", version("evaluate"), "scores/main"),
    ("evaluate", file("matrix_metric.py", b"0.5", b"0.6"), "scores/main"),
    ("evaluate", file("annotations.jsonl", b"it is 50", b"it is 05"), "scores/main"),
    ("evaluate", lost("predictions/main", "part-00000.parquet"), "predictions/main"),
    ("evaluate", lost("scores/main", "scores.json"), "scores/main"),
    ("evaluate", {"metrics": {"*": "exact_match"}}, "scores/main"),
    ("evaluate", {"max_new_tokens": 3}, OTHER),
    ("evaluate_trained", otherwise("models/main"), "predictions/trained"),
    ("evaluate_trained", otherwise("selection/main"), EARLIER.format("selection/main")),
    ("evaluate_trained", version("finetune"), ORPHANED.format("finetune")),
    ("evaluate_trained", lost("models/main", "final/config.json"), NOT_WHOLE.format("models/main")),
    ("evaluate_outside", WEIGHTS, "scores/outside"),
    ("evaluate_outside", file("judge.py", b"0.5", b"0.6"), "scores/outside"),
    ("evaluate_outside", version("evaluate"), "scores/outside"),
    ("evaluate_outside", lost("scores/outside", "scores.json", "cut"), "scores/outside"),
    ("compare", WEIGHTS, "tokens/"),
    ("compare", otherwise("samples/main"), "'marks/dedup' is out of date"),
    ("compare", otherwise("samples/test"), "predictions/random-s0"),
    ("compare", version("finetune"), "models/random-s0"),
    ("compare", lost("models/random-s0", "final/model.safetensors"), "models/random-s0"),
    ("compare", {"ratio": 0.25}, OTHER),
    ("sweep", otherwise("samples/main"), EARLIER.format("samples/main")),
    ("sweep", otherwise("clusters/main"), "a trial"),
    ("sweep", version("select"), "a trial"),
    ("sweep", version("sketch"), "sketches/"),
    ("sweep", lost("sketches", "*/total.json", "emptied"), "sketches/"),
    ("sweep", lost("sweeps/matrix", "measured/*.json"), "a trial"),
    ("sweep", lost("selection", "random-[!s]*/part-00000.parquet"), "a trial"),
    ("sweep", {"ratios": [0.5]}, OTHER),
]


def _title(value: Any) -> str | None:
    return value.__name__ if callable(value) else "" if isinstance(value, set) else str(value)


@pytest.mark.parametrize(("stage", "change", "expected"), AGAIN, ids=_title)
def test_what_determines_a_result_has_it_made_again_or_refused(
    made, begins, monkeypatch, caplog, stage, change, expected
):
    """One change, the same line: the noun is begun anew, or a `UserError` says what is the matter."""
    settings, changed = (
        (change, contextlib.nullcontext()) if isinstance(change, dict) else ({}, change(made, monkeypatch))
    )
    with changed, pytest.raises((MadeAgain, UserError)) as found:
        made.ask(stage, **settings)
    assert expected in str(found.value)
    assert isinstance(found.value, UserError) == (expected == OTHER or " " in expected and expected != "a trial")


EXECUTION: dict[str, dict[str, Any]] = {
    "ingest": {"max_tasks": 2, "max_rejected": 0.9},
    "extract": {"max_actors": 2, "cpus_per_actor": 0.25, "threads": 2, "stall_seconds": 900.0},
    "score": {"max_actors": 2, "threads": 2},
    "cluster": {"workers": 2, "cpus_per_worker": 0.5, "block_rows": 16},
    "select": {"max_tasks": 2},
    "dedup": {"max_tasks": 2, "threads": 1, "bucket_mb": 2},
    "decontaminate": {"max_tasks": 2, "threads": 1},
    "finetune": {"threads": 2, "micro_batch": 2, "logging_steps": 1, "image_cache_mb": 1},
    "evaluate": {"max_actors": 2, "threads": 2},
    "sweep": {"cpus_per_trial": 0.5, "max_concurrent": 1},
}
LONG_AGO = "2026-01-02T03:04:05Z"


@pytest.fixture
def moved(made, monkeypatch, tmp_path) -> Iterator[Made]:
    """The copy with dates of long ago, asked from another folder; the model touched; what nobody asks for changed."""
    for path in Path(made.run.uri).glob("*/*/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "created": LONG_AGO}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    times = {path: path.stat() for path in (made.files / "model").iterdir()}
    for path in times:
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    (made.files / "model" / "README.md").write_text("x")
    other = made.run.noun("features", "other")
    other.begin({"stage": "extract", "config": {"model": "another"}})
    yield made
    (made.files / "model" / "README.md").unlink()
    for path, status_of in times.items():
        os.utime(path, ns=(status_of.st_atime_ns, status_of.st_mtime_ns))


def test_what_does_not_determine_a_result_finds_it_done(moved, begins):
    """In a copied run directory, from another folder, with other execution settings: every stage says when it was."""
    for stage in CHAIN:
        found = moved.ask(stage, **EXECUTION.get(stage, {}))
        if stage == "export":
            continue
        assert (stage, found.created) == (stage, LONG_AGO)
        assert told_before(found, time.time()).startswith("done before, ")
    states = {line.name: line.state for line in status(moved.run)}
    assert states.pop("features/other") == "interrupted"
    assert set(states.values()) == {"done"}


def test_what_was_lost_is_seen_and_made_again(made):
    """One file of every noun deleted or cut: `status` names each, the same lines make all whole, and the same rows."""
    before = _contents(made.run)
    harmed = [noun for noun in made.run.nouns() if noun.noun != "sketches"]
    for number, noun in enumerate(harmed):
        sizes = json.loads(Path(noun.folder, "files.json").read_text("utf-8"))
        path = Path(noun.folder, max(sizes, key=lambda name: (sizes[name], name)))
        path.unlink() if number % 2 else os.truncate(path, path.stat().st_size // 2)
    shown = {line.name: line for line in status(made.run)}
    for noun in harmed:
        line = shown[f"{noun.noun}/{noun.label}"]
        assert line.state == "stale", line
        assert "is not whole: " in line.why or "has changed" in line.why, line
    for stage in CHAIN:
        made.ask(stage)
    assert {noun.noun for noun in made.run.nouns() if noun.lost_files(noun.require(""))} == set()
    assert {line.state for line in status(made.run)} == {"done"}
    assert _contents(made.run) == before


READ_MODEL = {"features/main", "row_scores/token_losses", "models/main", "models/random-s0", "predictions/main"}
READ_MODEL |= {"scores/outside", "models/ordered"}
OUTSIDE: list[tuple[Change, set[str], str]] = [
    (ROW, {"samples/main"}, "the source files have changed"),
    (TEST_ROW, {"samples/test"}, "the source files have changed"),
    (WEIGHTS, READ_MODEL, "the files of the model have changed"),
    (TEMPLATE, READ_MODEL, "the files of the model have changed"),
    (numbers, {"row_scores/given"}, "the file of given numbers has changed"),
    (file("weights.json", b"2.0", b"3.0"), {"selection/weighed"}, "the weights of the tasks have changed"),
    (file("annotations.jsonl", b"it is 50", b"it is 05"), {"scores/main"}, "the annotations have changed"),
    (file("judge.py", b"0.5", b"0.6"), {"scores/outside"}, "the files that the command names have changed"),
]


@pytest.mark.parametrize(("change", "names", "reason"), OUTSIDE, ids=_title)
def test_status_shows_what_files_outside_of_the_run_made_stale(made, monkeypatch, change, names, reason):
    """These and all that was made from them, with the commands; nothing else. What is gone says nothing."""
    stale = set()
    with change(made, monkeypatch):
        for line in status(made.run):
            if line.state == "stale":
                stale.add(line.name)
                assert reason in line.why
                assert "Made again by `raycurate " in line.why
    assert names <= stale
    assert stale == names | _made_from(made.run, names)
    assert {line.state for line in status(made.run)} == {"done"}


def test_status_of_a_run_whose_files_are_gone_says_nothing_of_them(made):
    """The model, the annotations, the numbers and the program were moved away: the results are those that they were."""
    names = ("model", "given.parquet", "annotations.jsonl", "judge.py")
    away = made.files / "away"
    away.mkdir()
    try:
        for name in names:
            (made.files / name).rename(away / name)
        assert {line.state for line in status(made.run)} == {"done"}
    finally:
        for name in names:
            (away / name).rename(made.files / name)
        away.rmdir()


def _made_from(run: Run, names: set[str]) -> set[str]:
    """All nouns that were made from some, at any distance."""
    found = set(names)
    manifests = [noun.require("") for noun in run.nouns()]
    for _ in manifests:
        found |= {f"{m.noun}/{m.label}" for m in manifests if found & set(lineage.made_from(m.description))}
    return found


def _contents(run: Run) -> dict[str, bytes]:
    """The parts of all nouns."""
    return {str(path.relative_to(run.uri)): path.read_bytes() for path in Path(run.uri).glob("*/*/part-*.parquet")}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "export"])
def test_a_later_version_of_any_stage_makes_its_noun_stale(tmp_path, monkeypatch, stage):
    """Of every row of the table, parts of other stages and experiments too."""
    row = STAGES[stage]
    run = Run(str(tmp_path))
    noun = run.noun(row.makes[0] if row.makes else NOUNS[0])
    noun.begin({"stage": stage, "stage_version": row.version, "config": {}})
    noun.finish()
    assert lineage.required(noun)
    monkeypatch.setitem(STAGES, stage, dataclasses.replace(row, version=row.version + 1))
    with pytest.raises(UserError, match=f"was made by an earlier version of `{stage}`"):
        lineage.required(noun)
    assert [line.state for line in status(run)] == ["stale"]


# the table that balance, compare-weights, individual-select, scaling, sweep and transferability share


def _probe(made: Made, **training: Any) -> Probe:
    rows = {"mixture": [{"clusters": "main", "rows": {"0": 2}}], "held_out": [{"rows": {"a": 2}}], **training}
    own = {"metrics": {"*": "matrix_metric:same"}, "annotations": str(made.files / "annotations.jsonl")}
    config = make_config(FinetuneConfig, {"model": str(made.files / "model"), **TRAINING, **rows})
    return Probe(name="one", finetune=config, evaluate={"data": "test", **own, **ANSWERS})


def _outside(made: Made, probe: Probe) -> Probe:
    command = f"{sys.executable} {made.files / 'judge.py'} {{model}} {{output}}"
    return dataclasses.replace(probe, evaluate={"command": command})


def _name(made: Made, probe: Probe) -> str:
    return _key(made.run, probe, model_fingerprint(probe.finetune.model, None))


IN_CLUSTERS: dict[str, Any] = {"mixture": None, "held_out": [{"clusters": "main", "rows": {"0": 2}}]}
PROBES: list[tuple[Any, dict[str, Any]]] = [
    (WEIGHTS, {}),
    (TEMPLATE, {}),
    (backend, {}),
    (otherwise("samples/test"), {}),
    (otherwise("clusters/main"), {}),
    (otherwise("clusters/main"), {"mixture": [{"rows": {"a": 2}}], **{"held_out": IN_CLUSTERS["held_out"]}}),
    (otherwise("selection/main"), {"mixture": None, "selection": "main"}),
    (otherwise("features/main"), {"mixture": None, "held_out": None, "selection": None, "score_net": "main"}),
    *((version(stage), {}) for stage in ("tokenize", "finetune", "predict", "evaluate")),
    (file("matrix_metric.py", b"0.5", b"0.6"), {}),
    (file("annotations.jsonl", b"it is 50", b"it is 05"), {}),
    (file("judge.py", b"0.5", b"0.6"), {"command": True}),
]


@pytest.mark.parametrize(("change", "settings"), PROBES, ids=_title)
def test_what_determines_a_probe_is_in_its_key(made, monkeypatch, change, settings):
    """Each training of an experiment has its place in a table by a hash of all that determines it."""
    settings = dict(settings)
    outside = settings.pop("command", False)
    probe = _outside(made, _probe(made)) if outside else _probe(made, **settings)
    before = _name(made, probe)
    monkeypatch.setattr("raycurate.experiments.engine.probes.image_backend", image_backend)
    with change(made, monkeypatch):
        if change is backend:
            monkeypatch.setattr("raycurate.experiments.engine.probes.image_backend", lambda: "another")
        assert _name(made, probe) != before
        monkeypatch.undo()
    _start_again()


def test_what_does_not_determine_a_probe_is_not_in_its_key(moved):
    """Execution settings, other labels, the folder, times of files."""
    before = _name(dataclasses.replace(moved, run=Run(str(moved.files / "run"))), _probe(moved))
    assert _name(moved, _probe(moved, threads=2, micro_batch=2, label="other")) == before
