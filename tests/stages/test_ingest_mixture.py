"""Several sources as one mixture: weights, caps, tasks, counts by source, what is stale, what is appended."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.config import IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.estimate.source import read_source
from raycurate.recipe import load_recipe
from raycurate.report.page import write_report
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.status import status
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests import drivers
from tests.nouns import read_all


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    """Rows without a task; every fourth is a copy of the one before."""
    return [
        {
            "conversations": [
                {"from": "human", "value": f"{name} {row - (row % 4 == 3)}?"},
                {"from": "gpt", "value": f"answer {row - (row % 4 == 3)}"},
            ]
        }
        for row in range(count)
    ]


@pytest.fixture
def data(tmp_path) -> Path:
    """LLaVA JSON of 40 rows, JSON Lines of 20 with a broken one, a table of 12."""
    (tmp_path / "vqa.json").write_text(json.dumps(rows_of("vqa", 40)))
    lines = [json.dumps(row) for row in rows_of("talk", 20)]
    (tmp_path / "talk.jsonl").write_text("\n".join([*lines, "{"]))
    table = pa.table({"q": [f"chart {n}?" for n in range(12)], "a": [f"{n}" for n in range(12)]})
    pq.write_table(table, tmp_path / "charts.parquet")
    return tmp_path


def sources_of(data: Path, **settings: dict[str, Any]) -> dict[str, Any]:
    """The three sources, with these settings of each on top."""
    own: dict[str, dict[str, Any]] = {
        "vqa": {"path": str(data / "vqa.json")},
        "talk": {"path": str(data / "talk.jsonl")},
        "charts": {"path": str(data / "charts.parquet"), "columns": {"question": "q", "answer": "a"}, "task": "chart"},
    }
    return {name: {**values, **settings.get(name, {})} for name, values in own.items()}


def mix(run: Run, sources: dict[str, Any], **settings: Any) -> Manifest:
    return ingest(run, make_config(IngestConfig, {"sources": sources, "rows_per_shard": 8, **settings}))


def contents(run: Run) -> Counter[str]:
    """How often each content is there."""
    return Counter(key.rpartition("-")[0] for key in read_all(run.noun("samples"))["key"].to_pylist())


def test_every_source_is_read_in_its_own_way_and_counted(data):
    """Formats, columns and tasks differ; rows that say no task are of one with the source's name."""
    run = Run(str(data / "run"))
    manifest = mix(run, sources_of(data))
    assert manifest.metrics["sources"] == {"charts": 12, "talk": 20, "vqa": 40}
    assert manifest.metrics["sources_read"] == {"charts": 12, "talk": 21, "vqa": 40}
    assert manifest.metrics["sources_not_drawn"] == {"charts": 0, "talk": 0, "vqa": 0}
    assert manifest.metrics["tasks"] == {"chart": 12, "talk": 20, "vqa": 40}
    assert (manifest.rows_in, manifest.rows_out, sum(manifest.quarantined.values())) == (73, 72, 1)


def test_weights_are_shares_of_the_mixtures_rows(data):
    """Of the largest mixture that has them: charts gives all its rows, the others what that allows."""
    weights = {"vqa": {"weight": 3}, "talk": {"weight": 1.5}, "charts": {"weight": 1}}
    manifest = mix(Run(str(data / "run")), sources_of(data, **weights))
    assert manifest.metrics["sources"] == {"charts": 12, "talk": 18, "vqa": 36}
    assert manifest.metrics["sources_not_drawn"] == {"charts": 0, "talk": 2, "vqa": 4}


def test_the_rows_are_the_same_however_the_files_are_cut_and_ordered(data):
    """Other slices, other shards, a file in reverse under another name; keys and their copies as well."""
    caps = {"vqa": {"cap": 17}, "talk": {"cap": 5}}
    run, other = Run(str(data / "run")), Run(str(data / "other"))
    mix(run, sources_of(data, **caps))
    (data / "reversed.json").write_text(json.dumps(rows_of("vqa", 40)[::-1]))
    moved = {"vqa": {"cap": 17, "path": str(data / "reversed.json")}, "talk": {"cap": 5}}
    mix(other, sources_of(data, **moved), slice_rows=3, rows_per_shard=5)
    assert read_all(run.noun("samples"))["key"].to_pylist() == read_all(other.noun("samples"))["key"].to_pylist()


@pytest.mark.parametrize(("pattern", "committed"), [("work/parsed/*.json", 1), ("work.json", 2), ("records/*.json", 4)])
def test_kill_9_in_a_weighted_ingest_changes_no_byte(data, pattern, committed):
    """While sources are read, as rows are drawn, while shards are written."""
    words = [f"vqa={data}/vqa.json", f"talk={data}/talk.jsonl", "--set", "rows_per_shard=8"]
    words += ["--set", "sources.vqa.weight=3", "--set", "sources.talk.weight=1"]
    drivers.kill_at_commit(f"*/samples/main/{pattern}", committed, "ingest", *words, "--out", str(data / "killed"))
    assert Run(str(data / "killed")).noun("samples").manifest() is None
    for name in ("killed", "whole"):
        assert CliRunner().invoke(main, ["ingest", *words, "--out", str(data / name)]).exit_code == 0
    killed, whole = (Run(str(data / name)).noun("samples").require("ingest") for name in ("killed", "whole"))
    assert killed.metrics == whole.metrics
    assert killed.metrics["sources"] == {"talk": 13, "vqa": 40}
    assert killed.fingerprint == whole.fingerprint
    parts = [sorted((data / name).glob("samples/main/part-*")) for name in ("killed", "whole")]
    assert [part.read_bytes() for part in parts[0]] == [part.read_bytes() for part in parts[1]]


def test_a_larger_cap_only_adds_rows(data):
    kept: Counter[str] = Counter()
    for cap in (1, 9, 10, 39, 40):
        run = Run(str(data / f"run{cap}"))
        assert mix(run, sources_of(data, vqa={"cap": cap})).metrics["sources"]["vqa"] == cap
        assert kept <= contents(run)
        kept = contents(run)


def test_a_changed_source_makes_the_samples_stale_and_nothing_that_does_not_read_it(data):
    """The samples of a test set and their selection stay what they are."""
    run = Run(str(data / "run"))
    sources = sources_of(data)
    mix(run, sources)
    mix(run, {"vqa": sources["vqa"]}, label="test")
    before = {label: run.noun("samples", label).require("ingest").fingerprint for label in ("main", "test")}
    select(run, SelectConfig(method="random", ratio=0.5))
    (data / "charts.parquet").write_bytes((data / "charts.parquet").read_bytes())
    assert mix(run, sources).fingerprint == before["main"]
    (data / "talk.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of("talk", 24)))
    mix(run, sources)
    states = {line.name: line.state for line in status(run)}
    assert run.noun("samples", "test").require("ingest").fingerprint == before["test"]
    assert (states["samples/main"], states["samples/test"], states["selection/main"]) == ("done", "done", "stale")


def test_more_sources_are_appended_and_counted(data):
    """A mixture behind a mixture, and a source alone behind both."""
    run = Run(str(data / "run"))
    sources = sources_of(data)
    mix(run, {"vqa": sources["vqa"]})
    mix(run, {"charts": {**sources["charts"], "cap": 5}}, append=True)
    manifest = ingest(run, IngestConfig(source=sources["talk"]["path"], append=True))
    assert manifest.metrics["sources"] == {"charts": 5, "talk.jsonl": 20, "vqa": 40}
    assert manifest.rows_out == 65
    again = mix(run, {"charts": {**sources["charts"], "cap": 5}}, append=True)
    assert again.rows_out == 65


def test_selection_report_and_status_tell_rows_by_source(data):
    run = Run(str(data / "run"))
    mix(run, sources_of(data, vqa={"cap": 10}))
    kept = select(run, SelectConfig(method="random", ratio=0.5)).metrics["kept_sources"]
    names = [name.split("/")[0] for name in read_all(run.noun("samples"))["source_file"].to_pylist()]
    chosen = read_all(run.noun("selection"))["kept"].to_pylist()
    assert kept == dict(Counter(name for name, is_kept in zip(names, chosen, strict=True) if is_kept))
    told = {line.name: line.sources for line in status(run)}
    assert told["samples/main"] == "charts 12, talk 20, vqa 10 of 40"
    page = Path(write_report(run, "main")).read_text()
    assert f"<tr><td>talk</td><td>20</td><td>{kept['talk']}</td>" in page


def test_the_command_takes_named_sources_and_a_recipe_the_same(data):
    words = [f"vqa={data}/vqa.json", f"talk={data}/talk.jsonl", "--out", str(data / "run")]
    done = CliRunner().invoke(main, ["ingest", *words, "--set", "sources.vqa.cap=4"])
    assert done.exit_code == 0, done.output
    assert "by source: talk 20, vqa 4 of 40" in done.output
    recipe = data / "recipe.yaml"
    sources = {"talk": {"path": str(data / "talk.jsonl")}, "vqa": {"path": str(data / "vqa.json"), "cap": 4}}
    recipe.write_text(yaml.safe_dump({"run": str(data / "run"), "ingest": {"sources": sources}}))
    config = load_recipe(recipe).section("ingest")
    made = Run(str(data / "run")).noun("samples").require("ingest")
    assert ingest(Run(str(data / "run")), config) == made
    assert made.rows_out == 24
    assert read_source(config).rows == 24


def test_a_source_without_a_usable_row_is_named(data):
    (data / "bad.json").write_text(json.dumps([{"a": 1}] * 3))
    with pytest.raises(UserError, match=r"sources.bad: not one row of .*bad.json can be used"):
        mix(Run(str(data / "run")), sources_of(data) | {"bad": {"path": str(data / "bad.json")}})
