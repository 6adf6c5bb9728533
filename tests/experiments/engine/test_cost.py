"""What trainings are said to cost, before the first and after it."""

from __future__ import annotations

import logging

import pytest

from raycurate.estimate.work import duration
from raycurate.experiments.engine.cost import rows_of, tell_after_first, tell_before, tell_selections
from raycurate.training.config import FinetuneConfig
from tests.training.made_runs import TASKS, write_run

SCORED = {"data": "main", "max_rows": 6, "max_new_tokens": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("cost") / "run", 40)


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


def test_trainings_are_told_with_seconds_before_they_start(run, told):
    tell_before(run.noun("probes"), run, [(training(selection=None), SCORED)] * 3, 2, 0.0, 1.0)
    assert "probes/main: 3 trainings of about" in told.text
    assert "2 at once:" in told.text
    assert "by formula" in told.text


def test_an_external_evaluator_leaves_the_seconds_out(run, told):
    tell_before(run.noun("probes"), run, [(training(selection=None), {"command": ["x", "{model}"]})] * 2, 1, 0.0, 1.0)
    assert "probes/main: 2 trainings, 1 at once\n" in told.text


def test_a_single_training_is_not_looked_at(run, told):
    tell_before(run.noun("probes"), run, [(training(selection=None), SCORED)], 1, 0.0, 1.0)
    assert not told.records


def test_the_first_trial_tells_what_the_others_will_take(run, told):
    tell_after_first(run.noun("probes"), 6, 2)({"training_seconds": 10.0, "evaluation_seconds": 2.5})
    assert "the first trial took 12.5 s: about 38 s for the other 5, 2 at once" in told.text


def test_selections_are_told_as_well(run, told):
    tell_selections(run.noun("sweeps"), 1000, 4, 2)
    tell_after_first(run.noun("sweeps"), 4, 2)({"seconds": {"selection": 2.0, "statistics": 1.0}})
    assert "sweeps/main: 4 selections, 2 at once: 0.1 s by formula" in told.text
    assert "about 6.0 s for the other 3" in told.text


def test_long_times_are_minutes():
    assert (duration(99.4), duration(150.0)) == ("99 s", "2.5 min")
