"""A path means the files that it meant where it was given, whatever directory reads it later."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from click.testing import CliRunner
from PIL import Image

from raycurate.cli.main import main
from raycurate.config import ClusterConfig, ExportConfig, ExtractConfig, IngestConfig, ScoreConfig
from raycurate.errors import UserError
from raycurate.evaluation.config import CompareConfig, EvaluateConfig
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.run.filesystem import absolute
from raycurate.run.paths import SETTINGS, absolute_command, absolute_model
from raycurate.run.store import Run
from raycurate.training.config import FinetuneConfig

URIS = ("s3://b/x", "gs://b/x", "hf://datasets/a/b", "file:///data/x", "abfs://c@a/x")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of its own, which is also the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_paths_are_absolute_from_where_they_are_given(here):
    """Relative paths, dots and the home are resolved; URIs and absolute paths stay."""
    assert absolute(".") == here
    assert absolute("a/../b.json") == f"{here}/b.json"
    assert absolute("data/**/*.json") == f"{here}/data/**/*.json"
    assert absolute("~/x") == f"{here}/x"
    assert absolute("/x") == "/x"
    assert [absolute(uri) for uri in URIS] == list(URIS)
    assert Run("runs/r/").uri == f"{here}/runs/r"
    assert Run("s3://b/r").uri == "s3://b/r"
    with pytest.raises(UserError, match="empty"):
        absolute("")


def test_a_model_is_a_folder_where_there_is_one(here, tmp_path):
    """Names stay names; a folder wins over a hub id, and over a model of the run where it holds a model."""
    names = ("tiny", "llava-hf/llava-1.5-7b-hf", "gpt2", "models/main", *URIS)
    assert [absolute_model(name) for name in names] == list(names)
    assert absolute_model("./gone") == f"{here}/gone"
    assert absolute_model("a/b/c") == f"{here}/a/b/c"
    assert absolute_model("~/m") == f"{here}/m"
    for name in ("tiny", "gpt2", "org/name", "models/main", "models/llava"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/llava/config.json").write_text("{}", encoding="utf-8")
    assert absolute_model("tiny") == "tiny"
    assert absolute_model("gpt2") == f"{here}/gpt2"
    assert absolute_model("org/name") == f"{here}/org/name"
    assert absolute_model("models/main") == "models/main"
    assert absolute_model("models/llava/") == f"{here}/models/llava"


def test_every_config_holds_absolute_paths(here, tmp_path):
    """Sources, images, models, scratch, task maps, scores, outputs and the files of a command."""
    ingest = IngestConfig(source="x.json", images=".", task_map="map.yaml")
    assert (ingest.source, ingest.images, ingest.task_map) == (f"{here}/x.json", here, f"{here}/map.yaml")
    assert IngestConfig(source="x", task_map="llava665k").task_map == "llava665k"
    assert ExtractConfig(model="./m", images="i").images == f"{here}/i"
    scored = ScoreConfig(given="s.parquet", clip="./clip", model="./m")
    assert [scored.given, scored.clip, scored.model] == [f"{here}/{name}" for name in ("s.parquet", "clip", "m")]
    assert ClusterConfig(clusters=2, scratch="s").scratch == f"{here}/s"
    assert ExportConfig(out="o.json").out == f"{here}/o.json"
    trained = FinetuneConfig(model="./m", deepspeed="ds.json", scratch="s", images="i")
    assert [trained.model, trained.deepspeed, trained.scratch] == [f"{here}/{name}" for name in ("m", "ds.json", "s")]
    assert FinetuneConfig(deepspeed="zero2").deepspeed == "zero2"
    assert EvaluateConfig(model="models/main", data="test", annotations="a.jsonl").annotations == f"{here}/a.jsonl"
    tried = IndividualSelectConfig(candidates={"a": "a.json"}, perplexity_model="./m", ingest={"images": "i"})
    assert tried.candidates == {"a": f"{here}/a.json"}
    assert tried.ingest == {"images": f"{here}/i"}
    compared = CompareConfig(finetune={"model": "./m", "epochs": 2}, evaluate={"annotations": "a"})
    assert compared.finetune == {"model": f"{here}/m", "epochs": 2}
    assert compared.evaluate == {"annotations": f"{here}/a"}
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/score.py").touch()
    (tmp_path / "lmms_eval").touch()
    assert absolute_command("tools/score.py --config=tools/score.py {model}") == (
        f"{here}/tools/score.py --config={here}/tools/score.py '{{model}}'"
    )
    assert absolute_command("lmms_eval --tasks 'a b' {model}") == "lmms_eval --tasks 'a b' {model}"


@pytest.mark.parametrize(
    ("kind", "needed", "paths"),
    [
        (IngestConfig, {"source": "x"}, {"source", "images", "task_map"}),
        (FinetuneConfig, {}, {"model", "deepspeed", "images", "scratch"}),
        (EvaluateConfig, {"model": "tiny", "data": "test"}, {"model", "annotations", "images"}),
    ],
)
def test_settings_of_another_stage_are_resolved_as_its_own_are(kind, needed, paths, here):
    """What a config makes absolute is so in a section of settings too, before it travels to a trial."""
    text = "./here.json"
    found = set()
    for name in kind.model_fields:
        with contextlib.suppress(ValueError):  # settings that take no text
            made = getattr(kind(**{**needed, name: text}), name)
            if made == absolute(text):
                assert name == "source" or SETTINGS[name](text) == made  # each experiment sets its own
                found.add(name)
    assert found == paths


def test_a_run_is_the_same_from_another_folder(ray_cluster, tmp_path, monkeypatch):
    """Made in A by workers that live elsewhere, read on from B, whose files of the same names are no images."""
    (tmp_path / "A").mkdir()
    (tmp_path / "B").mkdir()
    rows = []
    for i in range(3):
        Image.new("RGB", (20, 20), (i * 80, 0, 0)).save(tmp_path / f"A/{i}.png")
        (tmp_path / f"B/{i}.png").write_text("no image", encoding="utf-8")
        turns = [{"from": "human", "value": f"<image>\nq {i}"}, {"from": "gpt", "value": "a"}]
        rows.append({"id": i, "image": f"{i}.png", "conversations": turns})
    (tmp_path / "A/three.json").write_text(json.dumps(rows), encoding="utf-8")
    where = ray_cluster.get(ray_cluster.remote(lambda: os.getcwd()).remote())
    assert not where.startswith(str(tmp_path))
    monkeypatch.chdir(tmp_path / "A")
    made = CliRunner().invoke(main, ["ingest", "three.json", "--images", ".", "--out", "r"])
    assert made.exit_code == 0, made.output
    assert Run(str(tmp_path / "A/r")).noun("samples").require("ingest").rows_out == 3
    monkeypatch.chdir(tmp_path / "B")
    made = CliRunner().invoke(main, ["extract", "../A/r"])
    assert made.exit_code == 0, made.output
    assert Run(str(tmp_path / "A/r")).noun("features").require("extract").rows_out == 3
    assert sorted(os.listdir(tmp_path / "B")) == ["0.png", "1.png", "2.png"]
