"""`balance` with probes: which rows they get, what is made of their scores, and that a killed one repeats no probe."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.experiments.balance import _tell_unscored, balance, plan_probes, weigh_scores
from raycurate.experiments.engine.probes import Probe, ProbeResult
from raycurate.experiments.engine.task_rows import metric_of, mixture_config, scores_of
from raycurate.experiments.engine.weights_config import BalanceProbesConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.training.mixture import choose_rows
from raycurate.training.weights import read_weights
from tests.balancing.golden_table import GOLDEN, golden_csv
from tests.drivers import kill_after
from tests.experiments.task_runs import EVALUATE, FINETUNE, write_samples
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS

SIZES = {"a": 320, "b": 64, "c": 10}
ALONE = {task: (task,) for task in SIZES}


def config_of(**settings) -> BalanceProbesConfig:
    """Settings with a validation set."""
    return make_config(BalanceProbesConfig, {"validation": "val", **settings})


def test_every_probe_has_one_large_task_and_the_same_minis():
    """N + 1 probes; a part is rounded, and has a row at least."""
    planned = plan_probes(SIZES, config_of(mini=1 / 32, large=0.5), ALONE)
    assert planned == {
        "mini": {"a": 10, "b": 2, "c": 1},
        "a": {"a": 160, "b": 2, "c": 1},
        "b": {"a": 10, "b": 32, "c": 1},
        "c": {"a": 10, "b": 2, "c": 5},
    }


def test_other_forms_have_other_probes():
    """Precise adds models of one task; chat has them only; a group is large together; a fixed task has no probe."""
    settings = {"mini": 0.1, "large": 1.0}
    precise = plan_probes(SIZES, config_of(**settings, difficulty="precise"), ALONE)
    assert list(precise) == ["mini", "a", "b", "c", "mini:a", "mini:b", "mini:c", "alone:a", "alone:b", "alone:c"]
    assert (precise["mini:a"], precise["alone:a"]) == ({"a": 32}, {"a": 320})
    chat = plan_probes(SIZES, config_of(**settings, form="chat"), ALONE)
    assert chat == {
        "a": {"a": 320},
        "b": {"b": 64},
        "c": {"c": 10},
        "mini:a": {"a": 32},
        "mini:b": {"b": 6},
        "mini:c": {"c": 1},
    }
    grouped = plan_probes(SIZES, config_of(**settings, fixed={"c": 1}), {"x": ("a", "b"), "y": ("c",)})
    assert grouped == {"mini": {"a": 32, "b": 6, "c": 1}, "x": {"a": 320, "b": 64, "c": 1}}


def test_mini_sets_are_the_same_rows_everywhere_and_lie_in_the_large_ones():
    """The rows that the settings of each probe choose."""
    config = config_of(mini=0.125, large=0.5, seed=3)
    groups = [task for task, count in SIZES.items() for _ in range(count)]
    keys = [f"key-{number}" for number in range(len(groups))]
    rows = {}
    for name, counts in plan_probes(SIZES, config, ALONE).items():
        made = mixture_config(config, counts, seed=3, rows_seed=3)
        (part,) = made.mixture
        rows[name] = set(choose_rows(groups, keys, part, seed=made.mixture_seed, where="x").tolist())
    for name in SIZES:
        assert rows["mini"] < rows[name]
        added = {groups[number] for number in rows[name] - rows["mini"]}
        assert added == {name}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mini": 0.5, "large": 0.5}, "mini 0.5 must be below large 0.5"),
        ({"validation": "main"}, "would be scored on its own rows"),
        ({"groups": {"x": ["a"], "y": ["a"]}}, "task 'a' is in the groups 'x' and 'y'"),
        ({"finetune": {"seed": 1}}, "finetune.seed is set by the experiment"),
        ({"evaluate": {"data": "test"}}, "evaluate.data is set by the experiment"),
        ({"temperatur": 1}, "Did you mean 'temperature'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    """Before any work."""
    with pytest.raises(UserError, match=told):
        config_of(**settings)


def test_a_score_is_one_number_that_is_higher_where_better():
    """The headline; the named one of several; lower is better is refused, a task without rows has none."""
    headlines = {"a": {"m": True}, "b": {"m": True, "n": True}, "c": {"loss": False}}
    assert metric_of("a", headlines, {}) == "m"
    assert metric_of("b", headlines, {"b": "n"}) == "n"
    assert metric_of("d", headlines, {}) is None
    with pytest.raises(UserError, match=r"has the metrics m, n; .* --set scores.b=m"):
        metric_of("b", headlines, {})
    with pytest.raises(UserError, match="'loss' of task 'c' is lower where the model is better"):
        metric_of("c", headlines, {})
    assert scores_of({"a": {"m": 0.5, "m.x": 1}, "b": {"m": 1, "n": float("nan")}}, headlines, {"b": "n"}) == {"a": 0.5}


def test_weights_tables_and_figures_of_a_score_table(tmp_path):
    """The published weights from the published table, in files that other programs read."""
    noun = Run(str(tmp_path)).noun("balance")
    noun.begin({})
    weigh_scores(noun, config_of(), ALONE, golden_csv(), ["a note"])
    made = json.loads((tmp_path / "balance/main/weights.json").read_text())
    assert [round(made["weights"][task], 4) for task in GOLDEN["tasks"]] == GOLDEN["weights"]["final"]
    assert (made["notes"], made["unscored"], made["settings"]["mini"]) == (["a note"], {}, 1 / 32)
    table = list(csv.DictReader(io.StringIO((tmp_path / "balance/main/contributions.csv").read_text())))
    assert [line["from"] for line in table] == GOLDEN["tasks"]
    assert float(table[1]["VQAv2"]) == made["contributions"][GOLDEN["tasks"][1]]["VQAv2"]
    table = list(csv.DictReader(io.StringIO((tmp_path / "balance/main/difficulties.csv").read_text())))
    assert {line["unit"]: float(line["weight"]) for line in table} == made["weights"]
    figures = {path.name: path.read_bytes() for path in (tmp_path / "balance/main/figures").iterdir()}
    assert set(figures) == {"contributions.svg", "difficulties.svg", "weights.svg"}
    assert all(data.startswith(b"<svg") for data in figures.values())


UNSCORED = "probe,a,b,c,d,e\nmini,1,2,0,3,\na,2,3,0,3,\nb,1,4,0,3,\nc,1,2,0,4,\nd,1,2,0,3,\ne,1,2,0,3,\n"


def test_a_task_without_a_ratio_is_an_error_that_names_the_way_out(tmp_path):
    """No score above zero, no gain at all, no validation rows: named; with a weight for such tasks, left out."""
    noun = Run(str(tmp_path)).noun("balance")
    noun.begin({})
    with pytest.raises(
        UserError, match=r"'c' scores 0 after .*'d' scores the same.*'e' has no score|--fixed 'c=1'"
    ) as told:
        weigh_scores(noun, config_of(), ALONE, UNSCORED, [])
    assert all(
        text in str(told.value) for text in ("'c' scores 0", "'d' scores the same", "'e' has no score", "--fixed 'e=1'")
    )
    weigh_scores(noun, config_of(fixed_unscored=0.8), ALONE, UNSCORED, [])
    weights = read_weights(str(tmp_path / "balance/main/weights.json"))
    assert {task: weights[task] for task in "cde"} == dict.fromkeys("cde", 0.8)
    assert weights["a"] + weights["b"] == pytest.approx(2)
    made = json.loads((tmp_path / "balance/main/weights.json").read_text())
    assert set(made["unscored"]) == set("cde")
    assert len(made["notes"]) == 3


@pytest.mark.parametrize("unscored", [None, 1.0])
def test_probes_that_score_nothing_say_so(tmp_path, unscored):
    """Not that one task alone has the weight 1: that no probe got anything right, and what would change it."""
    tasks = sorted(ALONE)
    rows = [["probe", *tasks], *([probe, *["0"] * len(tasks)] for probe in ("mini", *tasks))]
    text = "".join(",".join(row) + "\n" for row in rows)
    noun = Run(str(tmp_path)).noun("balance")
    noun.begin({})
    with pytest.raises(UserError, match=r"no task has scores .*scores 0 after training on it\).*train longer.*9 steps"):
        weigh_scores(noun, config_of(fixed_unscored=unscored), ALONE, text, ["the shortest probe has 9 steps"])


def probed(name: str, score: float) -> tuple[Probe, ProbeResult]:
    """A probe after which every task has the same score."""
    scores, headlines = {task: {"m": score} for task in ALONE}, {task: {"m": True} for task in ALONE}
    settings = mixture_config(config_of(), {"a": 1}, seed=0, rows_seed=0)
    return Probe(name=name, finetune=settings), ProbeResult(
        label=name, rows=1, steps=1, loss=0.0, scores=scores, headlines=headlines
    )


def test_a_task_that_its_own_probe_scores_0_is_told_at_once(caplog):
    """Not after all other probes; not where it has a weight of its own, nor of a probe of other tasks."""
    tell = _tell_unscored(config_of(fixed={"c": 1.0}), {"ab": ("a", "b"), "c": ("c",)})
    for name, score in (("ab", 0.1), ("mini", 0.0), ("c", 0.0)):
        tell(*probed(name, score))
    assert not caplog.records
    tell(*probed("ab", 0.0))
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[1].split(" without")[0] for line in told] == [
        f" '{task}' scores 0 after training on it" for task in "ab"
    ]
    assert "--fixed 'a=1'" in told[0]
    assert _tell_unscored(config_of(fixed_unscored=1.0), ALONE) is None


# on a cluster

SETTINGS = {"mini": 0.25, "fixed_unscored": 1.0, "max_concurrent": 1, "evaluate": EVALUATE}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, str]:
    """A run of thirty rows with twelve for validation, and a model."""
    folder = tmp_path_factory.mktemp("balance")
    write_samples(folder / "run", main=range(30), val=range(100, 112))
    return folder / "run", str(make_tiny_vlm("llava", folder / "model"))


def kill_in_the_middle(folder: Path, settings: dict) -> dict[str, int]:
    """Start the command, kill -9 its process after two probes; the results that it left, and when they were written."""
    words = [
        f"--set={name}={json.dumps(value)}" for name, value in settings.items() if name not in ("mini", "validation")
    ]
    command = ["balance", str(folder), "--validation", "val", "--mini", "1/4", *words]
    return kill_after(2, folder / "balance" / "main" / "probes", *command)


@pytest.mark.slow
def test_a_killed_balance_repeats_no_probe_and_ends_like_an_undisturbed_one(made, ray_cluster, tmp_path):
    """kill -9 after half of the probes: the other half is run, the score table and the weights are the same."""
    source, model = made
    settings = {**SETTINGS, "finetune": {**FINETUNE, "model": model}}
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    shutil.copytree(source, quiet)
    shutil.copytree(source, killed)
    left = kill_in_the_middle(killed, settings)
    assert 2 <= len(left) < 4
    files = []
    for folder in (killed, quiet):
        balance(Run(str(folder)), config_of(**settings))
        made_in = folder / "balance" / "main"
        files.append([made_in / name for name in ("scores.csv", "contributions.csv", "weights.json")])
    probes = {path.name: path.stat().st_mtime_ns for path in (killed / "balance/main/probes").iterdir()}
    assert len(probes) == 4
    assert {name: probes[name] for name in left} == left
    for one, other in list(zip(*files, strict=True))[:2]:
        assert one.read_bytes() == other.read_bytes()
    weights = [json.loads(each[2].read_text()) for each in files]
    assert weights[0]["weights"] == weights[1]["weights"]
    assert set(weights[0]["weights"]) == set(TASKS)
    assert weights[0]["table"]["sha256"] == weights[1]["table"]["sha256"]
