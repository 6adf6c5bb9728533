"""Probe trainings as trials: what they give, that they run once, and that one failure leaves the others standing."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path

import pytest

from raycurate.errors import UserError
from raycurate.experiments.engine.probes import Probe, _key, on_own_cpus, run_probes
from raycurate.experiments.engine.trials import trials_name
from raycurate.run.store import Run
from raycurate.training.config import FinetuneConfig
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run

FAST = {"method": "full", "learning_rate": 0.003, "batch_rows": 8, "micro_batch": 8, "trackers": (), "threads": 1}


def probe(model: str, name: str, rows: dict[str, int], **settings) -> Probe:
    """A probe on a few rows of each task, scored by the loss on others and by its answers."""
    config = FinetuneConfig(
        model=model,
        mixture=({"rows": rows},),
        held_out=({"rows": {TASKS[0]: 4}, "skip": 6},),
        **{**FAST, **settings},
    )
    return Probe(name=name, finetune=config, evaluate={"data": "main", "max_rows": 6, "max_new_tokens": 2})


@pytest.mark.parametrize(("given", "threads"), [({}, 1), ({"cpus_per_worker": 2.5}, 2), ({"threads": 3}, 3)])
def test_a_probe_has_the_threads_that_its_cpus_carry(given, threads):
    """Several run side by side: none takes the whole machine, unless it is told to."""
    settings = {**FAST, "threads": None, **given}
    found = on_own_cpus(probe("tiny", "one", {TASKS[0]: 2}, **settings))
    assert found.finetune.threads == threads


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Run, str]:
    """A run of forty samples, and a model."""
    folder = tmp_path_factory.mktemp("probes")
    return write_run(folder / "run", 40), str(make_tiny_vlm("llava", folder / "model"))


def test_an_edited_metric_of_the_users_own_is_another_probe(tmp_path, monkeypatch):
    """By the content of its file; touched, or with other metrics edited, it is the same."""
    run, file = write_run(tmp_path / "run", 4), tmp_path / "users_probe_metric.py"
    file.write_text("def metric(answers):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    plain = probe("tiny", "one", {TASKS[0]: 2})
    own = dataclasses.replace(plain, evaluate={**(plain.evaluate or {}), "metrics": {"*": "users_probe_metric:metric"}})
    before = _key(run, own, "model")
    (tmp_path / "other.py").write_text("x = 1")
    file.touch()
    assert _key(run, own, "model") == before != _key(run, plain, "model")
    file.write_text("def metric(answers):\n    return 2.0\n")
    with pytest.raises(UserError, match="was changed after this process imported"):
        _key(run, own, "model")
    sys.modules.pop("users_probe_metric")  # as another process has it
    assert _key(run, own, "model") != before


@pytest.fixture(scope="module")
def results(made, ray_cluster):
    """Four probes: two of them alike, one with the rows of another in another order of tasks' weights."""
    run, model = made
    noun = run.noun("probes")
    noun.begin({"probes": 1})
    probes = [
        probe(model, "few", {TASKS[0]: 2}),
        probe(model, "many", {TASKS[0]: 6, TASKS[1]: 6}, epochs=3),
        probe(model, "again", {TASKS[0]: 2}),
        probe(model, "online", {TASKS[0]: 6, TASKS[1]: 6}, epochs=3, weighting="tla"),
    ]
    handler = signal.getsignal(signal.SIGINT)
    told = []
    found = run_probes(
        run, noun, "table", probes, max_concurrent=2, done=lambda probe, result: told.append((probe.name, result))
    )
    assert sorted(name for name, _ in told) == ["again", "many", "online"], "each training once, by its last name"
    assert all(result in found for _, result in told)
    assert signal.getsignal(signal.SIGINT) is handler, "Tune left its Ctrl-C handler behind"
    return run, noun, probes, found


def test_probes_give_losses_scores_and_counts(results):
    """Rows as asked for, an improvement by training, and nothing left of models that nobody keeps."""
    run, noun, _, (few, many, again, online) = results
    assert (few.rows, many.rows, many.steps) == (2, 12, 6)
    assert few == again
    assert set(many.held_out) == {TASKS[0]}
    assert many.held_out[TASKS[0]]["loss"] < few.held_out[TASKS[0]]["loss"]
    assert many.scores
    assert set(many.scores) == set(many.headlines)
    assert many.tasks[TASKS[0]]["weight"] == 1
    assert online.tasks[TASKS[0]]["weight"] != 1
    assert online.loss != many.loss
    assert not any(each.noun in ("models", "predictions", "scores") for each in run.nouns())
    assert len(list((run_folder(run) / "probes" / "main" / "table").iterdir())) == 3


def test_the_largest_probes_begin_first_and_the_results_keep_their_order(made, ray_cluster, monkeypatch):
    """One that begins last is waited for alone; what is restored after a kill has the same name in any order."""
    run, model = made
    noun = run.noun("probes", "ordered")
    noun.begin({"probes": 1})
    sizes = [3, 5, 2, 6]
    begun = []

    def run_none(noun, phase, keys, work, **settings):
        begun.extend(keys)
        return [{"label": key, "rows": 0, "steps": 0, "loss": 0.0} for key in keys]

    monkeypatch.setattr("raycurate.experiments.engine.probes.run_trials", run_none)
    found = run_probes(run, noun, "table", [probe(model, str(rows), {TASKS[0]: rows}) for rows in sizes])
    labels = [result.label for result in found]
    assert [sizes[labels.index(key)] for key in begun] == [6, 5, 3, 2]
    assert trials_name("table", begun) == trials_name("table", labels)


def test_finished_probes_are_not_run_again(results, monkeypatch):
    """A table that has them all starts no trial."""
    run, noun, probes, found = results
    monkeypatch.setattr("raycurate.experiments.engine.trials._fit", lambda tuner: pytest.fail("a trial was started"))
    assert run_probes(run, noun, "table", probes) == found


def test_a_failing_probe_is_told_and_the_others_finish(results):
    """More rows than there are: the message says so, the good one is in the table."""
    run, noun, probes, _ = results
    bad = probe(probes[0].finetune.model, "bad", {TASKS[0]: 1000})
    good = probe(probes[0].finetune.model, "good", {TASKS[0]: 3})
    with pytest.raises(UserError, match=r"1 of 2 trials failed \(mixed\).*1000 are asked for"):
        run_probes(run, noun, "mixed", [bad, good])
    lines = [json.loads(path.read_text()) for path in (run_folder(run) / "probes" / "main" / "mixed").iterdir()]
    assert [line["rows"] for line in lines] == [3]


def run_folder(run: Run):
    """The run directory."""
    from pathlib import Path

    return Path(run.uri)


def test_replaced_weights_are_trained_again(results, monkeypatch):
    """The model's files are in the key of a probe: under the same path other weights are another model."""
    run, noun, probes, _ = results
    weights = Path(probes[0].finetune.model) / "model.safetensors"
    before = weights.read_bytes()
    data = bytearray(before)
    data[len(data) // 2] ^= 1

    def refuse(tuner):
        raise InterruptedError("a trial was started")

    monkeypatch.setattr("raycurate.experiments.engine.trials._fit", refuse)
    weights.write_bytes(data)
    try:
        with pytest.raises(InterruptedError):
            run_probes(run, noun, "table", probes)
    finally:
        weights.write_bytes(before)
    assert run_probes(run, noun, "table", probes)
