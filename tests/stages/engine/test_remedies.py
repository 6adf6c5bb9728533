"""The commands that errors, `status` and `forget` name make the very noun again."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from raycurate.cleaning.config import DecontaminateConfig
from raycurate.cli import needed
from raycurate.cli.main import main
from raycurate.config import (
    ClusterConfig,
    ExportConfig,
    ExtractConfig,
    IngestConfig,
    RankConfig,
    ScoreConfig,
    SelectConfig,
)
from raycurate.evaluation.config import EvaluateConfig
from raycurate.run.store import Run
from raycurate.stages.engine.exported import noted_exports
from raycurate.stages.engine.remedies import commands_again, export_again, told_commands
from raycurate.stages.engine.shards import describe
from raycurate.stages.export import export
from raycurate.stages.ingest import ingest
from raycurate.stages.score import _output
from raycurate.stages.select import select
from raycurate.stages.table import Stage
from raycurate.training.config import FinetuneConfig
from tests.nouns import write_samples

SETTINGS = [
    ("features", "x", "extract", ExtractConfig(layers=(1, 2), batch_rows=7)),
    ("clusters", "main", "cluster", ClusterConfig(clusters=7, tolerance=1e-7, init="kmeans++")),
    ("ranking", "by-task", "rank", RankConfig(order="mmd_by_task", options={"temperature": 1e-5})),
    ("marks", "decontaminate", "decontaminate", DecontaminateConfig(against="a test.json")),
    ("selection", "few", "select", SelectConfig(method="coincide", where="task = 'a: b'", marks=())),
    ("models", "lora", "finetune", FinetuneConfig(model="tiny", selection=None, lora_rank=3, weights={"yes": 2.0})),
    ("predictions", "new", "predict", EvaluateConfig(model="models/lora", data="test", batch_rows=3)),
]


@pytest.fixture
def asked(monkeypatch):
    """The settings with which commands would call their stages."""
    found = []
    monkeypatch.setattr(needed, "tell_what_is_missing", lambda *_: None)  # the run has nothing else
    monkeypatch.setattr(Stage, "load", lambda _: lambda _run, config: found.append(config) or [])
    return found


def type_in(command):
    return CliRunner().invoke(main, shlex.split(command))


@pytest.mark.parametrize(("noun", "label", "stage", "config"), SETTINGS, ids=[each[2] for each in SETTINGS])
def test_a_command_has_the_settings_of_the_noun_and_its_label(tmp_path, asked, noun, label, stage, config):
    """Lists, nulls, small numbers and text that looks like YAML included."""
    made = Run(str(tmp_path / "a run")).noun(noun, label)
    made.begin(describe(stage, config, {}))
    made.finish()
    (command,) = commands_again(made)
    done = type_in(command)
    assert [(each.determining(), each.label) for each in asked] == [(config.determining(), label)], done.output


@pytest.mark.parametrize("name", ["token_losses", "mean_token", "clip"])
def test_the_command_of_a_score_has_what_its_numbers_follow_from(tmp_path, asked, name):
    run = Run(str(tmp_path / "run"))
    write_samples(run, ["a"], ["t"], label="val")
    manifest = run.noun("samples", "val").require("ingest")
    facts = SimpleNamespace(fingerprint="f", dtype="torch.float32")  # as `scoring_facts` has it
    config = ScoreConfig(scores=(name,), clip="c", samples="val", label="val", blind=False, clip_rows=3, batch_rows=9)
    output = _output(run, config, manifest, facts, name)
    output.noun.begin(output.description)
    output.noun.finish()
    (command,) = commands_again(output.noun)
    type_in(command)
    again = _output(run, asked[0], manifest, facts, name)
    assert (again.noun, again.description) == (output.noun, output.description)
    assert asked[0].dtype == "float32"


def test_a_selection_that_is_deleted_comes_back_as_it_was(tmp_path):
    """Samples, selection and export by the lines as they are printed, with the same fingerprints and the same file."""
    rows = [{"id": str(n), "question": "What?", "answer": f"{n}", "kind": "ab"[n % 2]} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = Run(str(tmp_path / "run"))
    ingest(run, IngestConfig(source=str(tmp_path / "rows.jsonl"), task_column="kind", rows_per_shard=16))
    select(run, SelectConfig(method="stratified", ratio=0.3, label="few", where="task = 'a'", seed=3))
    out = tmp_path / "out.jsonl"
    export(run, ExportConfig(out=str(out), format="messages", selection="few", train_all=True))
    nouns = [run.noun("samples"), run.noun("selection", "few")]
    lines = [command for noun in nouns for command in commands_again(noun)]
    lines += [export_again(run, each) for each in noted_exports(run)]
    before, text = [noun.manifest().fingerprint for noun in nouns], out.read_bytes()
    out.unlink()
    for noun in nouns:
        noun.clear()
    for line in lines:
        done = type_in(line)
        assert done.exit_code == 0, done.output
    assert [noun.manifest().fingerprint for noun in nouns] == before
    assert out.read_bytes() == text


def test_samples_that_have_grown_are_read_and_appended_to_again(tmp_path):
    for name in ("rows", "more"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"question": "{name}?", "answer": "You."}}\n' * 3, encoding="utf-8")
    run = Run(str(tmp_path / "run"))
    ingest(run, IngestConfig(source=str(tmp_path / "rows.jsonl")))
    grown = ingest(run, IngestConfig(source=str(tmp_path / "more.jsonl"), append=True, max_turns=9))
    lines = commands_again(run.noun("samples"))
    (tmp_path / "rows.jsonl").write_text('{"question": "new?", "answer": "You."}\n' * 5, encoding="utf-8")
    for line in lines:
        assert type_in(line).exit_code == 0
    now = run.noun("samples").manifest()
    assert (now.rows_out, now.description["appended"]) == (8, grown.description["appended"])


def test_what_is_part_of_another_stage_is_made_by_what_was_made_from_it(tmp_path):
    run = Run(str(tmp_path / "run"))
    tokens, model = run.noun("tokens", "main-12345678"), run.noun("models", "m")
    tokens.begin({"stage": "tokenize"})
    assert commands_again(tokens) == [f"finetune {run.uri}"]
    fingerprint = tokens.finish().fingerprint
    config = FinetuneConfig(lora_rank=3)
    model.begin({**describe("finetune", config, {}), "made_from": {"tokens/main-12345678": fingerprint}})
    again = f"finetune {run.uri} --label m --set lora_rank=3"
    assert commands_again(tokens) == commands_again(model) == [again]
    assert told_commands([tokens, model]) == f"`raycurate {again}`"
