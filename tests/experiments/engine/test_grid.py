"""The grid: which trials there are, and what their labels and keys depend on."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from raycurate.charts.trade_off import pareto_front
from raycurate.cli.main import main
from raycurate.errors import UserError
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.grid import grid
from raycurate.settings import make_config


def trials(**values):
    return grid(make_config(SweepConfig, values))


def test_only_methods_with_a_temperature_are_multiplied_by_it():
    """Two temperatures, two ratios, two seeds: eight trials of coincide, four of random, two of full."""
    found = trials(
        methods=["coincide", "random", "full"], temperatures=[0.1, 0.2], ratios=[0.1, 0.2], seeds=[0, 1], finetune={}
    )
    assert [sum(trial.method == name for trial in found) for name in ("coincide", "random", "full")] == [8, 4, 2]
    assert {trial.temperature for trial in found if trial.method == "random"} == {None}
    assert {trial.options["temperature"] for trial in found if trial.method == "coincide"} == {0.1, 0.2}
    assert len({trial.label for trial in found}) == 14


def test_full_may_have_fewer_seeds():
    """The first ones of the sweep; the others keep theirs."""
    found = trials(methods=["full", "random"], seeds=[4, 5, 6], full_seeds=2, finetune={})
    assert [(trial.method, trial.seed) for trial in found] == [
        ("full", 4),
        ("full", 5),
        *[("random", s) for s in (4, 5, 6)],
    ]


def test_labels_follow_the_selection():
    """The same point of two grids has one label; another option has another; what is trained on it does not matter."""
    point = trials(temperatures=[0.1], ratios=[0.2])[0]
    assert point.label.startswith("coincide-t0.1-r0.2-s0-")
    assert trials(temperatures=[0.05, 0.1], ratios=[0.2, 0.4])[2].label == point.label
    changed = trials(temperatures=[0.1], ratios=[0.2], options={"coincide": {"density": "code"}})[0]
    assert changed.label != point.label
    one, two = (trials(finetune={"model": model})[0] for model in ("a", "b"))
    assert one.label == two.label
    assert one.finetune_config.determining() != two.finetune_config.determining()


def test_variants_are_methods_with_other_settings():
    """A method inside and outside of an envelope, and two powers, are lines of one sweep under their own names."""
    found = trials(
        methods=["coincide", "inside", "root"],
        temperatures=[0.1, 0.2],
        variants={"inside": {"method": "coincide", "envelope": "0.5,2,0"}, "root": {"task_power": 0.5}},
    )
    assert [(t.method, t.temperature) for t in found] == [
        ("coincide", 0.1),
        ("coincide", 0.2),
        ("inside", 0.1),
        ("inside", 0.2),
        ("root", None),
    ]
    inside, root = found[2].select_config, found[4].select_config
    assert (inside.method, inside.options, inside.envelope.cap) == ("coincide", {"temperature": 0.1}, 2.0)
    assert (root.method, root.task_power) == ("balanced", 0.5)
    assert found[0].select_config.envelope is None
    assert len({t.label for t in found}) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variants": {"random": {}}}, "variant 'random' has the name of a method"),
        ({"variants": {"other": {}}}, "variant 'other' is not among the methods"),
        ({"methods": ["x"], "variants": {"x": {"ratio": 0.1}}}, "variants.x.ratio is set by the experiment itself"),
        ({"methods": ["x"], "variants": {"x": {"envelop": 1}}}, "Did you mean 'envelope'"),
        ({"ratios": [0.2, 1.2]}, "ratio 1.2 must be above 0 and at most 1"),
        ({"temperatures": [0]}, "temperature 0.0 must be a positive number"),
        ({"seeds": [1, 1]}, "has a value twice"),
        ({"methods": ["full"]}, "--finetune only"),
        ({"methods": ["coincdie"]}, "Did you mean 'coincide'"),
        ({"finetune": {"seed": 3}}, "finetune.seed is set by the sweep itself"),
        ({"temperatures": [0.1], "options": {"coincide": {"temperature": 1}}}, "are both given"),
    ],
)
def test_a_wrong_setting_is_explained(values, message):
    """Every mistake names the value and what is allowed."""
    with pytest.raises(UserError, match=message):
        assert [trial.select_config for trial in trials(**values)]


def test_the_front_has_the_points_that_nothing_beats():
    """Cheaper or better than every other point; a dearer equal is beaten."""
    points = [(1.0, 5.0), (2.0, 5.0), (0.5, 1.0), (3.0, 9.0), (2.5, 4.0), (1.0, 4.0)]
    assert pareto_front(points) == [2, 0, 3]
    assert pareto_front([]) == []


def test_help_shows_an_example():
    """`raycurate sweep --help` can be copied from."""
    text = CliRunner().invoke(main, ["sweep", "--help"]).output
    assert "raycurate sweep runs/llava --method coincide --temperatures 0.05,0.1,0.2" in text
