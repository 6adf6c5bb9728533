"""What trainings are said to cost, before the first and after it."""

from __future__ import annotations

import logging

import pytest

from raycurate.estimate.rates import DEFAULT_RATES
from raycurate.estimate.work import duration
from raycurate.experiments.engine.cost import makespan, rows_of, tell_after_first, tell_before, tell_selections
from raycurate.training.config import FinetuneConfig
from tests.training.made_runs import TASKS, write_run

SCORED = {"data": "main", "max_rows": 6, "max_new_tokens": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("cost") / "run", 40)


@pytest.fixture
def probes(run):
    noun = run.noun("probes")
    noun.clear()
    noun.begin({"stage": "balance"})
    return noun


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger="raycurate")
    return caplog


def training(**settings):
    return FinetuneConfig(model="tiny", method="full", batch_rows=8, **settings)


def test_rows_are_those_of_the_mixture_the_limit_or_all(run):
    assert rows_of(run, training(mixture=({"rows": {TASKS[0]: 2, TASKS[1]: 5}},))) == 7
    assert rows_of(run, training(mixture=({}, {"rows": {TASKS[0]: 2}}))) == 42
    assert rows_of(run, training(selection=None)) == 40
    assert rows_of(run, training(selection=None, limit=9)) == 9


@pytest.mark.parametrize(
    ("costs", "at_once", "whole"),
    [([1, 1, 8, 1, 1], 2, 8), ([3, 3, 2, 2, 2], 2, 7), ([5, 4, 3], 1, 12), ([5, 4], 3, 5), ([1.5] * 5, 2, 4.5)],
)
def test_trials_end_with_the_last_slot_the_largest_begun_first(costs, at_once, whole):
    """Not with the sum divided by the slots: 8 of 12 in one piece take 8 on two of them."""
    assert makespan(costs, at_once) == whole


def test_trainings_are_told_with_seconds_before_they_start(run, probes, told):
    few = training(selection=None, limit=2)
    trainings = [(few, SCORED), (training(selection=None), SCORED), (few, SCORED)]
    small, large, again = tell_before(probes, "trained-1", run, trainings, 2, 0.0, 1.0)
    assert small == again < large / 2
    foreseen = probes.read_json("work.json")["estimated_seconds"]
    assert foreseen == pytest.approx(large + DEFAULT_RATES.worker_seconds, abs=1e-3)
    assert "probes/main: 3 trainings of about" in told.text
    assert "2 at once:" in told.text
    assert "by formula" in told.text


def test_an_external_evaluator_leaves_the_seconds_out(run, probes, told):
    unknown = {"command": ["x", "{model}"]}
    trainings = [(training(selection=None), unknown), (training(selection=None, limit=9, epochs=2.0), unknown)]
    assert tell_before(probes, "trained-1", run, trainings, 1, 0.0, 1.0) == [40, 18]
    assert "probes/main: 2 trainings, 1 at once\n" in told.text


def test_a_single_training_is_not_looked_at(run, probes, told):
    tell_before(probes, "trained-1", run, [(training(selection=None), SCORED)], 1, 0.0, 1.0)
    assert not told.records


def test_the_first_trial_tells_what_the_others_will_take(probes, told):
    costs = {"large": 80.0, "small": 10.0, "first": 20.0, "middle": 40.0}
    tell = tell_after_first(probes, "trained-1", costs, 2)
    tell("first", {"training_seconds": 10.0, "evaluation_seconds": 2.5})
    tell("small", {"training_seconds": 90.0, "evaluation_seconds": 2.5})
    assert len(told.records) == 1
    assert "the first trial took 12.5 s: about 38 s for the other 3, 2 at once" in told.text
    assert probes.read_json("work.json")["expected_seconds"] == 50.0


def test_a_trial_that_is_alone_tells_nothing(probes, told):
    tell_after_first(probes, "trained-1", {"only": 80.0}, 2)("only", {"training_seconds": 1.0, "evaluation_seconds": 2})
    assert not told.records


def test_selections_are_told_as_well(probes, told):
    tell_selections(probes, "measured-1", 1000, 4, 2)
    took = {"seconds": {"selection": 2.0, "statistics": 1.0}}
    tell_after_first(probes, "measured-1", dict.fromkeys("abcd", 1.0), 2)("a", took)
    assert "probes/main: 4 selections, 2 at once: 0.1 s by formula" in told.text
    assert "about 3.0 s for the other 3" in told.text


def test_what_was_said_is_in_the_manifest_beside_what_all_took(run, probes):
    """Of all phases together; an attempt that goes on has fewer trainings to do and says nothing else."""
    tell_before(probes, "trained-1", run, [(training(selection=None), SCORED)] * 4, 2, 0.0, 1.0)
    first = probes.read_json("work.json")["estimated_seconds"]
    assert first > DEFAULT_RATES.worker_seconds
    told, took = ("a", {"training_seconds": 10.0, "evaluation_seconds": 2.5}), {"seconds": {"merging": 1.0}}
    tell_after_first(probes, "trained-1", dict.fromkeys("abcd", 1.0), 2)(*told)
    tell_before(probes, "trained-1", run, [(training(selection=None), SCORED)] * 2, 2, 0.0, 1.0)
    tell_after_first(probes, "trained-1", {"a": 1.0, "b": 9.0}, 2)(*told)
    tell_after_first(probes, "soups-1", dict.fromkeys("abc", 1.0), 1)("a", took)
    probes.add_seconds(31.0)
    manifest = probes.finish()
    assert (manifest.estimated_seconds, manifest.expected_seconds, manifest.seconds) == (first, 28.0, 31.0)


def test_long_times_are_minutes():
    assert (duration(99.4), duration(150.0)) == ("99 s", "2.5 min")
