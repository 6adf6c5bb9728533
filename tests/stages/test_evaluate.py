"""evaluate on Ray Data: the same answers as in one process, scores by hand, resume, external evaluators."""

from __future__ import annotations

import sys

import pytest
import torch

from raycurate.errors import UserError
from raycurate.evaluation import METRICS
from raycurate.evaluation.config import CompareConfig, EvaluateConfig
from raycurate.experiments.compare import compare
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import evaluate as stage
from raycurate.stages.engine.asked_rows import key_hash
from raycurate.stages.evaluate import evaluate
from tests.nouns import read_all
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import write_run

ROWS = 24
SETTINGS = {
    "data": "main",
    "max_new_tokens": 4,
    "window_rows": 5,
    "batch_rows": 3,
    "dtype": "float32",
    "cpus_per_actor": 0.5,
    "cpus_per_loader": 1,
    "max_actors": 2,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random LLaVA on disk."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Rows of three tasks in two shards, some of two turns."""
    return write_run(tmp_path_factory.mktemp("run"), ROWS)


def _config(model: str, **settings) -> EvaluateConfig:
    return make_config(EvaluateConfig, {"model": model, **SETTINGS, **settings})


def _in_process(run: Run, model: str) -> dict[tuple[str, int], str]:
    """The answers of the same windows, without Ray."""
    from raycurate.evaluation.generate import Generator
    from raycurate.evaluation.prompts import QuestionPreparer
    from raycurate.models.adapter import load_vlm
    from raycurate.samples.images import ImageRoot, load_image
    from raycurate.samples.schema import ImageRef

    vlm = load_vlm(model, device="cpu", dtype="float32")
    preparer = QuestionPreparer(
        vlm.processor, max_length=4096, token_budget=32768, max_rows=3, pixel_dtype=torch.float32
    )
    generator = Generator(vlm, max_new_tokens=4)
    found = {}
    for part in run.noun("samples").iter_parts():
        rows = part.to_pylist()
        for start in range(0, len(rows), 5):
            window = []
            for row in rows[start : start + 5]:
                refs = [ImageRef(i["path"], i["data"], i["sha"]) for i in row["images"]]
                images = [load_image(ImageRoot(None).read(ref)) for ref in refs]
                keys = [ref.identity for ref in refs]
                window.append({**row, "images": [lambda i=i: i for i in images], "image_keys": keys})
            for made in preparer.prepare_questions(window)[0]:
                for question, answer in zip(made.questions, generator.answer(made.batch), strict=True):
                    found[window[question.position]["key"], question.turn] = answer.text
    return found


@pytest.fixture(scope="module")
def scored(run, model, ray_cluster):
    """The finished scores of the run."""
    return evaluate(run, _config(model, label="plain"))


def test_answers_are_those_of_one_process_and_every_question_is_counted(run, model, scored):
    """Actors and loaders change no answer; each turn of each row is there once, in the order of the samples."""
    rows = read_all(run.noun("scores", "plain")).to_pylist()
    expected = _in_process(run, model)
    assert {(row["key"], row["turn"]): row["prediction"] for row in rows} == expected
    assert len(rows) == len(expected) == scored.rows_in == scored.rows_out > ROWS
    order = [row["key"] for row in read_all(run.noun("samples")).to_pylist()]
    keys = list(dict.fromkeys(row["key"] for row in rows))
    assert keys == order
    second = next(row for row in rows if row["turn"] == 1)
    assert (second["question"], second["reference"]) == ("more?", "yes")


def test_scores_are_the_metrics_of_the_answers(run, scored):
    """scores.json equals computing each metric by hand from the rows."""
    rows = read_all(run.noun("scores", "plain")).to_pylist()
    scores = run.noun("scores", "plain").read_json("scores.json")
    for task in ("colour", "count", "text"):
        own = [row for row in rows if row["task"] == task]
        by_hand = METRICS["exact_match"].compute([r["prediction"] for r in own], [r["references"] for r in own])
        assert scores[task] == {"exact_match": by_hand.value}
        assert [dict(r["scores"])["exact_match"] for r in own] == list(by_hand.rows["exact_match"])
    assert scored.metrics["headlines"]["text"] == {"exact_match": True}
    assert len(scored.metrics["checkpoint"]) == 32


def test_other_metrics_do_not_generate_again(run, model, scored, monkeypatch):
    """A finished evaluation is skipped; changed metrics and annotations only score again."""

    def no_generation(*_arguments):
        raise AssertionError("the answers are there")

    monkeypatch.setattr(stage, "actor_lines", no_generation)
    assert evaluate(run, _config(model, label="plain")) == scored
    changed = evaluate(run, _config(model, label="plain", metrics={"te*": ["exact_match", "vqa_accuracy"]}))
    assert changed.fingerprint != scored.fingerprint
    assert set(run.noun("scores", "plain").read_json("scores.json")["text"]) == {"exact_match", "vqa_accuracy"}
    assert evaluate(run, _config(model, label="plain")).fingerprint == scored.fingerprint


def test_only_missing_shards_are_answered(run, model, scored, monkeypatch):
    """After a crash the committed shard is kept; the whole is the same."""
    noun = run.noun("predictions", "plain")
    before = read_all(noun)
    noun.filesystem.delete_file(f"{noun.folder}/manifest.json")
    noun.filesystem.delete_file(f"{noun.folder}/records/00001.json")
    asked = []
    plain = stage.actor_lines

    def noted(*arguments):
        asked.append(arguments[0])
        return plain(*arguments)

    monkeypatch.setattr(stage, "actor_lines", noted)
    evaluate(run, _config(model, label="plain", max_actors=1))
    assert asked == [[1]]
    assert read_all(noun) == before


def test_a_subset_is_the_first_rows_by_key_hash(run, model, ray_cluster):
    """max_rows takes the same rows whatever the shards."""
    manifest = evaluate(run, _config(model, label="subset", max_rows=7))
    keys = {row["key"] for row in read_all(run.noun("scores", "subset")).to_pylist()}
    every = [row["key"] for row in read_all(run.noun("samples")).to_pylist()]
    assert keys == set(sorted(every, key=key_hash)[:7])
    assert manifest.rows_in >= 7


def test_a_subset_by_task_is_the_first_rows_of_each(run, model, ray_cluster):
    """max_rows_per_task and tasks: the first of each named task by key hash; a metric of another task is no error."""
    settings = {"max_rows_per_task": 3, "tasks": ["colour", "text"], "metrics": {"count": "gleu", "te*": "gleu"}}
    manifest = evaluate(run, _config(model, label="by-task", **settings), in_process=True)
    rows = read_all(run.noun("scores", "by-task")).to_pylist()
    every = read_all(run.noun("samples")).to_pylist()
    for task in ("colour", "text"):
        own = sorted((row["key"] for row in every if row["task"] == task), key=key_hash)
        assert {row["key"] for row in rows if row["task"] == task} == set(own[:3])
    assert {row["task"] for row in rows} == {"colour", "text"}
    assert manifest.metrics["headlines"] == {"colour": {"exact_match": True}, "text": {"gleu": True}}
    with pytest.raises(UserError, match="unknown task of samples/main 'colr'. Did you mean 'colour'"):
        evaluate(run, _config(model, label="by-task", tasks=["colr"]), in_process=True)
    with pytest.raises(UserError, match="with tasks give max_rows_per_task"):
        _config(model, max_rows=3, tasks=["colour"])


def test_an_external_evaluator_scores_the_checkpoint(run, model, ray_cluster):
    """The command is given the model's folder; its JSON becomes scores.json, its failure a readable error."""
    code = "import sys,json; json.dump({'results': {'mme': {'acc,none': 0.5}}}, open(sys.argv[2]+'/r.json', 'w'))"
    command = f'{sys.executable} -c "{code}" {{model}} {{output}}'
    settings = {"model": model, "command": command, "label": "outside", "cpus_per_actor": 0.5}
    manifest = evaluate(run, make_config(EvaluateConfig, settings))
    assert run.noun("scores", "outside").read_json("scores.json") == {"mme": {"acc": 0.5}}
    assert manifest.metrics["headlines"] == {"mme": {"acc": True}}
    with pytest.raises(UserError, match="not installed"):
        evaluate(run, make_config(EvaluateConfig, {**settings, "command": "no-such-program {model}", "label": "none"}))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"data": None}, "either data"),
        ({"command": "x {model}"}, "either data"),
        ({"data": None, "command": "x"}, "must name the checkpoint"),
        ({"data": "nothing"}, "no finished 'samples/nothing'"),
        ({"model": "models/nothing"}, "no finished 'models/nothing'"),
        ({"model": "/no/such/folder"}, "there is no model folder /no/such/folder"),
        ({"metrics": {"colr": "exact_match"}}, "Did you mean"),
        ({"annotations": "/no/such/file"}, "no annotations file"),
    ],
)
def test_wrong_settings_are_one_readable_error(run, model, ray_cluster, settings, found):
    """What is wrong is said before anything is generated."""
    with pytest.raises(UserError, match=found):
        evaluate(run, make_config(EvaluateConfig, {"model": model, **SETTINGS, **settings}))


@pytest.mark.slow
def test_compare_trains_and_scores_every_line_once(tmp_path, model, ray_cluster, monkeypatch):
    """Two methods, one seed, two optimizer steps: LoRA lines load and are scored; a rerun trains nothing."""
    run = write_run(tmp_path, ROWS)
    lora = {"model": model, "max_steps": 2, "batch_rows": 4, "lora_rank": 2, "lora_alpha": 4, "trackers": ()}
    asked = {**{name: value for name, value in SETTINGS.items() if name != "data"}, "max_new_tokens": 2}
    asked["max_actors"] = 1
    settings = {
        "methods": ("full", "random"),
        "seeds": (0,),
        "ratio": 0.5,
        "finetune": lora,
        "evaluate": asked,
        "data": "main",
        "max_test_rows": 6,
    }
    noun = run.noun("scoreboard")
    assert compare(run, make_config(CompareConfig, settings)).metrics["lines"] == 2
    board = noun.read_json("scoreboard.json")
    assert [(line["method"], line["seed"]) for line in board["lines"]] == [("full", 0), ("random", 0)]
    assert board["reference"] == "full"
    lines = noun.read_json("lines.json")
    assert [line["kept"] for line in lines] == [ROWS, ROWS // 2]
    assert all(line["steps"] == 2 and line["training_seconds"] > 0 for line in lines)
    text = noun.filesystem.open_input_stream(f"{noun.folder}/scoreboard.md").read().decode()
    assert "random" in text
    assert "| selection s |" in text
    for line, record in zip(board["lines"], lines, strict=True):
        scores = run.noun("scores", record["label"]).read_json("scores.json")
        assert list(line["scores"]) == [scores[c["task"]][c["metric"]] for c in board["columns"]]
    made = {line["label"]: run.noun("models", line["label"]).require("finetune").created for line in lines}
    compare(run, make_config(CompareConfig, settings))
    assert noun.read_json("scoreboard.json")["lines"][0]["scores"] == board["lines"][0]["scores"]
    assert made == {label: run.noun("models", label).require("finetune").created for label in made}
