"""The facts of sources and of samples in a run, read by a sample."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.estimate import source as source_module
from raycurate.estimate.source import read_samples, read_source
from raycurate.estimate.tokens import by_ratio, image_tokens, read_tokens
from raycurate.run.store import Run
from raycurate.stages.ingest import ingest


def write_rows(folder, rows=40, per_image=4):
    """LLaVA rows of a question and an answer, several of one image."""
    (folder / "images").mkdir()
    for n in range(rows // per_image):
        Image.new("RGB", (30, 20), (n, 0, 0)).save(folder / "images" / f"{n}.png")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Red."}]
    values = [
        {
            "id": str(n),
            "image": f"{n // per_image}.png",
            "conversations": [*turns, {**turns[0], "value": f"And {n}?"}, turns[1]],
        }
        for n in range(rows)
    ]
    (folder / "rows.json").write_text(json.dumps(values), encoding="utf-8")
    return IngestConfig(source=str(folder / "rows.json"), images=str(folder / "images"))


@pytest.fixture
def config(tmp_path):
    return write_rows(tmp_path)


def test_a_small_source_is_read_whole(config):
    found = read_source(config)
    assert (found.rows, found.turns, found.answers, found.images, found.distinct) == (40, 4, 2, 1, 0.25)
    assert found.shapes[0] == (30, 20)
    assert found.answer_chars == 8
    assert found.notes == ()


def test_rows_of_a_large_source_follow_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "WHOLE_BYTES", 100)
    monkeypatch.setattr(source_module, "MOST_FILES", 2)
    text = "".join(json.dumps({"question": "What?", "answer": f"{n:04d}"}) + "\n" for n in range(100))
    for n in range(6):
        (tmp_path / f"{n}.jsonl").write_text(text, encoding="utf-8")
    found = read_source(IngestConfig(source=str(tmp_path)))
    assert found.rows == pytest.approx(600, rel=0.02)  # lines of a slice are known to one
    assert "sampled" in found.notes[0]


def test_the_same_seed_draws_the_same_rows(tmp_path, monkeypatch):
    config = write_rows(tmp_path)
    monkeypatch.setattr(source_module, "WHOLE_BYTES", 100)
    assert read_source(config, seed=3).to_json() == read_source(config, seed=3).to_json()


def test_images_that_are_not_here_are_assumed_and_told(config):
    lost = config.model_copy(update={"images": "/not/here"})
    found = read_source(lost)
    assert found.shapes[0] == (640, 480)
    assert any("/not/here cannot be used" in note for note in found.notes)
    assert any("cannot be read here" in note for note in found.notes)


def test_a_source_without_a_usable_row_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match="none of the sampled rows"):
        read_source(IngestConfig(source=str(tmp_path / "rows.jsonl")))


def test_samples_of_a_run_have_the_facts_of_their_source(config, tmp_path):
    run = Run(str(tmp_path / "run"))
    manifest = ingest(run, config)
    found, of_source = read_samples(run.noun("samples"), manifest), read_source(config)
    names = ("rows", "turns", "chars", "answers", "images", "distinct", "pixels", "source_bytes", "tasks")
    assert [getattr(found, name) for name in names] == [getattr(of_source, name) for name in names]


def test_tokens_are_those_of_the_models_processor(config):
    from transformers import AutoConfig

    from raycurate.models.source import resolve_model

    model_config = AutoConfig.from_pretrained(resolve_model("tiny"))
    found = read_tokens("tiny", model_config, read_source(config))
    assert (found.visual, found.patches, found.tiles) == (16, 16, 1)
    assert found.told_by == "the processor"
    assert found.row > 16 + 8


def test_without_a_processor_the_configuration_tells_the_images_tokens():
    from transformers import LlavaConfig, Qwen2VLConfig

    assert image_tokens(LlavaConfig(), 1e6)[:3] == (576, 576, 1)
    assert image_tokens(Qwen2VLConfig(), 28 * 28 * 100)[:2] == (100, 400)


def test_characters_stand_for_tokens_where_no_processor_is(config):
    from transformers import LlavaConfig

    source = read_source(config)
    assert by_ratio(LlavaConfig(), source).row == pytest.approx(source.chars / 4 + 4 * 8 + 576)


@pytest.mark.parametrize("whole", [1 << 20, 100])
def test_a_mixture_counts_its_sources_by_weight_and_cap(tmp_path, monkeypatch, whole):
    """As ingest keeps them, whole or sampled: rows, tasks and lengths are those of the mixture."""
    monkeypatch.setattr(source_module, "WHOLE_BYTES", whole)
    for name, rows, answer in (("short", 400, "a"), ("long", 90, "a" * 99), ("some", 50, "b")):
        lines = (json.dumps({"question": f"What {n:03d}?", "answer": answer}) for n in range(rows))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sources = {
        "short": {"path": str(tmp_path / "short.jsonl"), "weight": 3, "task": "s"},
        "long": {"path": str(tmp_path / "long.jsonl"), "weight": 1, "task": "l", "cap": 60},
        "some": {"path": str(tmp_path / "some.jsonl"), "weight": 1, "task": "o"},
    }
    config = IngestConfig(sources=sources)
    found = read_source(config)
    made = ingest(Run(str(tmp_path / "run")), config)
    close = pytest.approx if whole == 100 else lambda value, rel: value
    assert found.rows == close(made.rows_out, rel=0.05)
    assert {task: rows / found.rows for task, rows in found.tasks.items()} == pytest.approx(
        {task: rows / made.rows_out for task, rows in made.metrics["tasks"].items()}, abs=0.03
    )
    assert found.answer_chars == pytest.approx((50 * 99 + 150 + 50) / 250, rel=0.05)


@pytest.mark.parametrize("text", ["", '{"other": 1}\n'])
def test_a_mixture_with_a_source_of_no_use_is_refused_as_by_ingest(tmp_path, text):
    (tmp_path / "some.jsonl").write_text('{"question": "What?", "answer": "That."}\n' * 9, encoding="utf-8")
    (tmp_path / "none.jsonl").write_text(text, encoding="utf-8")
    sources = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("some", "none")}
    with pytest.raises(UserError, match=r"sources.none: not one row of"):
        read_source(IngestConfig(sources=sources))
