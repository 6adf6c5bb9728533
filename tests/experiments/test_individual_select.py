"""Individual Select: what joins by scripted scores, then real trainings that are killed and started again."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from raycurate.errors import UserError
from raycurate.experiments.engine.candidates import Dataset, _keep_selected
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.experiments.engine.individual_results import Outcome, report
from raycurate.experiments.engine.soup import _greedy, average
from raycurate.experiments.individual_select import _curve, _parallel, _sequential, _Trainer, individual_select
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.training.mixture import MixturePart
from tests.drivers import kill_after
from tests.nouns import read_all
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import write_run

CATEGORIES = {"a": "ocr", "b": "ocr", "c": "chat", "bad": "chat"}
GAINS = {"a": 4.0, "b": 3.0, "c": 2.0, "bad": -5.0}


class Scripted(_Trainer):
    """A trainer whose scores are known: gains add up, but `a` and `b` together give 1 less; seed 1 gives 1 more."""

    def scores(self, jobs):
        return [{"x": 50 + seed + sum(GAINS[n] for n in names) - ({"a", "b"} <= set(names))} for names, seed in jobs]


def scripted(**settings) -> Scripted:
    config = make_config(
        IndividualSelectConfig,
        {"candidates": {name: name for name in GAINS}, "categories": CATEGORIES, "seeds": [0, 1, 2], **settings},
    )
    datasets = {
        name: Dataset(
            name=name,
            category=CATEGORIES[name],
            label=name,
            rows=10,
            tasks={"t": 10},
            part=MixturePart(samples=name),
            in_baseline=float(name == "c"),
        )
        for name in GAINS
    }
    return Scripted(Run("memory"), Run("memory").noun("individual_select"), config, {}, datasets)


def names_of(trials) -> list[str]:
    return [trial.decision.candidate.name for trial in trials if trial.decision.chosen]


def test_parallel_tries_every_candidate_on_the_baseline():
    """Baseline 51 with sd 1: with one seed less the gains are 3, 2, 1 and -6; the curve shows what does not add up."""
    trainer = scripted()
    baseline, trials = _parallel(trainer)
    assert (baseline.mean, baseline.sd) == (51, 1)
    assert {trial.decision.candidate.name: trial.decision.gain for trial in trials} == {
        "a": 3,
        "b": 2,
        "c": 1,
        "bad": -6,
    }
    assert names_of(trials) == ["a", "b"]
    points = _curve(trainer, baseline, [trial.decision for trial in trials])
    assert [(p.step.datasets, p.step.summed_gain, p.gain) for p in points] == [(("a", "b"), 5, 5)]
    assert names_of(_parallel(scripted(top=1, candidate_seeds=3))[1]) == ["c", "a"]


def test_sequential_lets_chosen_ones_join():
    """`b` is tried on the baseline with `a`, gains 1 by its seed, and is not above 1 sd any more."""
    _, trials = _sequential(scripted())
    assert [(t.decision.candidate.name, t.joined, t.baseline.mean, t.decision.gain) for t in trials] == [
        ("a", (), 51, 3),
        ("b", ("a",), 55, 1),
        ("c", ("a",), 55, 1),
        ("bad", ("a",), 55, -6),
    ]
    trials = _sequential(scripted(top=1, threshold_sds=0.5, candidate_seeds=3))[1]
    assert names_of(trials) == ["a", "c"]
    assert trials[1].decision.reason.endswith("but 1 of 'ocr' came first")


def test_the_report_says_why_for_each():
    """The reason, what moved, and a candidate whose rows the baseline has."""
    trainer = scripted(candidate_seeds=3)
    baseline, trials = _parallel(trainer)
    points = _curve(trainer, baseline, [trial.decision for trial in trials])
    text = report(Outcome(trainer.config, 100, baseline, trainer.datasets, trials, points, []))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "gain +2.000 is above 1 sd = 1.000" in lines["c"]
    assert "100% of its rows are in the baseline already" in lines["c"]
    assert "gain -5.000 is not above 1 sd" in lines["bad"]
    assert "those of the paper are not known" in text
    assert "| ocr | a b | a b | 120 | 57.000 | 6.000 | 7.000 | -1.000 |" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": [0]}, "at least 2 items"),
        ({"seeds": [1, 1]}, "has a value twice"),
        ({"candidate_seeds": 3}, "more than the 2 seeds"),
        ({"categories": {"ocr": "x"}}, "unknown candidate with a category 'ocr'"),
        ({"finetune": {"seed": 1}}, "finetune.seed is set by the experiment itself"),
        ({"soup": ["best"]}, "greedy"),
    ],
)
def test_settings_that_do_not_fit(values, message):
    with pytest.raises(UserError, match=message):
        make_config(IndividualSelectConfig, {"candidates": {"a": "a.json"}, **values})


def test_a_greedy_soup_takes_what_does_not_harm():
    """The first always; each of the others where the average is no worse."""
    found = {("a",): 5.0, ("a", "b"): 5.0, ("a", "b", "c"): 4.0, ("a", "b", "d"): 6.0}
    assert _greedy(["a", "b", "c", "d"], lambda members: found[tuple(members)]) == ["a", "b", "d"]


def test_a_soup_is_the_mean_of_the_weights(tmp_path):
    """Every tensor, in float32; the result is a model of the run."""
    import torch
    from safetensors.torch import load_file, save_file

    run = Run(str(tmp_path / "run"))
    folder = make_tiny_vlm("llava", tmp_path / "model")
    first = load_file(folder / "model.safetensors")
    second = {name: tensor + torch.randn(tensor.shape) for name, tensor in first.items()}
    for label, tensors in (("one", first), ("two", second)):
        noun = run.noun("models", label)
        noun.begin({"config": {"model": str(folder)}, "label": label})
        shutil.copytree(folder, Path(noun.folder) / "final")
        save_file(tensors, Path(noun.folder) / "final" / "model.safetensors", metadata={"format": "pt"})
        noun.finish()
    average(run, ["one", "two"], "soup")
    mean = load_file(Path(run.noun("models", "soup").folder) / "final" / "model.safetensors")
    assert set(mean) == set(first)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    assert run.noun("models", "soup").require("finetune").description["config"]["model"] == str(folder)
    (Path(run.noun("models", "two").folder) / "final" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="a soup needs whole models"):
        average(run, ["one", "two"], "other")


def test_a_filtered_candidate_has_the_selected_rows(tmp_path):
    """Rows, counts by task and the image root go on."""
    run = write_run(tmp_path / "run", 20, keep_every=3)
    shutil.copytree(tmp_path / "run/selection/main", tmp_path / "run/selection/few")
    _keep_selected(run, "main", "few")
    kept = read_all(run.noun("selection"))
    table = read_all(run.noun("samples", "few"))
    assert table["key"].to_pylist() == kept.filter(kept["kept"])["key"].to_pylist()
    tasks, counts = np.unique(table["task"].to_pylist(), return_counts=True)
    manifest = run.noun("samples", "few").require("ingest")
    assert manifest.metrics["tasks"] == dict(zip(tasks.tolist(), counts.tolist(), strict=True))
    assert manifest.description["config"] == {"images": None}


def write_candidates(folder: Path) -> dict[str, str]:
    """Rows of text: some that the baseline of forty has, and some that it has not."""
    paths = {}
    for name, numbers in (("new", range(100, 130)), ("copy", range(2, 40, 3))):
        rows = [
            {
                "id": f"{name}-{n}",
                "task": "text",
                "conversations": [
                    {"from": "human", "value": f"say {n}"},
                    {"from": "gpt", "value": "word " * (1 + n % 5) + str(n)},
                ],
            }
            for n in numbers
        ]
        path = folder / f"{name}.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        paths[name] = str(path)
    return paths


FINETUNE = {"method": "full", "learning_rate": 0.003, "batch_rows": 16, "micro_batch": 16, "threads": 1}
EVALUATE = {"max_rows": 6, "max_new_tokens": 2}


def kill_in_the_middle(run: Path, candidates: dict[str, str], model: str) -> dict[str, int]:
    """Start the command, kill -9 its process after two results; when each result that it left was written."""
    command = ["individual-select", "--baseline", str(run), "--model", model]
    command += ["--candidates", *candidates.values(), "--data", "main", "--cap", "12", "--set", "max_concurrent=1"]
    for section, values in (("finetune", FINETUNE), ("evaluate", EVALUATE)):
        command += [part for name, value in values.items() for part in ("--set", f"{section}.{name}={value}")]
    return kill_after(2, run / "individual_select" / "main" / "trained", *command)


@pytest.mark.slow
def test_a_killed_selection_ends_as_an_undisturbed_one(ray_cluster, tmp_path):
    """kill -9, the same settings again: no finished probe is run again, the tables are those of a quiet run."""
    model = str(make_tiny_vlm("llava", tmp_path / "model"))
    candidates = write_candidates(tmp_path)
    values = {
        "candidates": candidates,
        "data": "main",
        "cap": 12,
        "max_concurrent": 1,  # one process for all
        "finetune": {**FINETUNE, "model": model},
        "evaluate": EVALUATE,
    }
    config = make_config(IndividualSelectConfig, values)
    write_run(tmp_path / "quiet", 40)
    individual_select(Run(str(tmp_path / "quiet")), config)
    shutil.copytree(tmp_path / "quiet", tmp_path / "killed", ignore=shutil.ignore_patterns("individual_select"))
    before = kill_in_the_middle(tmp_path / "killed", candidates, model)
    assert 2 <= len(before) < 4
    individual_select(Run(str(tmp_path / "killed")), config)
    killed, quiet = (tmp_path / name / "individual_select" / "main" for name in ("killed", "quiet"))
    assert {name: (killed / "trained" / name).stat().st_mtime_ns for name in before} == before
    assert len(list((killed / "trained").glob("*.json"))) == 4
    for name in ("decisions.csv", "curve.csv", "report.md", "figures/gains.svg", "figures/deltas.svg"):
        assert (killed / name).read_bytes() == (quiet / name).read_bytes()
    lines = {line["dataset"]: line for line in csv.DictReader(io.StringIO((quiet / "decisions.csv").read_text()))}
    assert {name: float(line["in_baseline"]) for name, line in lines.items()} == {"new": 0.0, "copy": 1.0}
    assert {name: line["rows"] for name, line in lines.items()} == {"new": "12", "copy": "12"}
    assert not list((tmp_path / "quiet").glob("models/*"))
