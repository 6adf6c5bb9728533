"""Which probes a reading needs, and how the tasks of a group become one score."""

from __future__ import annotations

import numpy as np
import pytest

from raycurate.balancing.config import BalanceConfig
from raycurate.balancing.cotbal import balance
from raycurate.balancing.scores import parse_groups, parse_scores
from raycurate.errors import UserError

PLAIN = parse_scores("probe,a,b\nmini,0.5,0.2\na,0.6,0.3\nb,0.55,0.4\n")
EXTRA = "probe,a,b\nmini,0.5,0.2\na,0.6,0.3\nb,0.55,0.4\nmini:a,0.3,\nmini:b,,0.1\nalone:a,0.5,\nalone:b,,0.4\n"
CHAT = "probe,a,b\nbase,0.2,0.1\na,0.6,0.2\nb,0.4,0.5\nmini:a,0.3,\nmini:b,,0.4\n"


def test_precise_difficulty_has_models_of_its_own() -> None:
    """Eq. 17 from mini:TASK and alone:TASK; contributions stay those of the N+1 probes."""
    real, precise = (balance(parse_scores(EXTRA), BalanceConfig(difficulty=d)) for d in ("real", "precise"))
    np.testing.assert_allclose(real.difficulty_N, [1 - 5 / 6, 0.5])
    np.testing.assert_allclose(precise.difficulty_N, [0.4, 0.75])
    np.testing.assert_array_equal(real.contribution_NN, precise.contribution_NN)
    with pytest.raises(UserError, match=r"no row 'mini:a' \(trained on the mini set of 'a' alone\)"):
        balance(PLAIN, BalanceConfig(difficulty="precise"))


def test_chat_form_goes_from_the_base_model() -> None:
    """Eqs. 15 and 16 by hand."""
    result = balance(parse_scores(CHAT), BalanceConfig(form="chat"))
    np.testing.assert_allclose(result.contribution_NN, [[1, 0.25], [0.5, 1]])
    np.testing.assert_allclose(result.difficulty_N, [0.5, 0.2])
    with pytest.raises(UserError, match="no row 'mini' but a row 'base': read it with --form chat"):
        balance(parse_scores(CHAT), BalanceConfig())
    with pytest.raises(UserError, match="no row 'base' but a row 'mini': read it with --form mini"):
        balance(PLAIN, BalanceConfig(form="chat"))


GROUPED = "probe,a1,a2,b\nmini,0.5,40,0.2\nA,0.6,80,0.3\nB,0.55,60,0.4\n"


def test_groups_average_relative_scores() -> None:
    """A group's difficulty is the mean of its tasks', whatever their units, and its tasks share its weight."""
    result = balance(parse_scores(GROUPED), BalanceConfig(), {"A": ("a1", "a2"), "B": ("b",)})
    np.testing.assert_allclose(result.difficulty_N, [(1 / 6 + 0.5) / 2, 0.5])
    ratio_of_b_to_a = (0.55 / 0.6 + 60 / 80) / 2
    mini_of_a = (0.5 / 0.6 + 40 / 80) / 2
    assert result.contribution_NN[1, 0] == pytest.approx((ratio_of_b_to_a - mini_of_a) / (1 - mini_of_a))
    assert result.contribution_NN[0, 1] == pytest.approx(0.5)
    assert result.by_task["a1"] == result.by_task["a2"] == result.weights.final_N[0]
    assert list(result.by_task) == ["a1", "a2", "b"]


def test_groups_of_one_task_are_tasks() -> None:
    """The same weights under other names."""
    named = parse_scores("probe,a,b\nmini,0.5,0.2\nA,0.6,0.3\nB,0.55,0.4\n")
    result = balance(named, BalanceConfig(), {"A": ("a",), "B": ("b",)})
    assert result.by_task == balance(PLAIN, BalanceConfig()).by_task


def test_a_column_per_group() -> None:
    """Scores of groups are taken as they are, and given to all tasks of the group."""
    result = balance(PLAIN, BalanceConfig(fixed={"z": 1.0, "t": 3.0}), {"a": ("x", "y", "z"), "b": ("w",)})
    single = balance(PLAIN, BalanceConfig()).by_task
    assert result.by_task == {"x": single["a"], "y": single["a"], "w": single["b"], "z": 1.0, "t": 3.0}
    with pytest.raises(UserError, match="'a' of fixed weight is a group; fix its tasks: x, y"):
        balance(PLAIN, BalanceConfig(fixed={"a": 1.0}), {"a": ("x", "y"), "b": ("w",)})


def test_a_task_of_fixed_weight_leaves_its_group() -> None:
    """Its column does not count in the group's score."""
    result = balance(parse_scores(GROUPED), BalanceConfig(fixed={"a2": 1.5}), {"A": ("a1", "a2"), "B": ("b",)})
    assert result.difficulty_N[0] == pytest.approx(1 / 6)
    assert result.by_task["a2"] == 1.5


def test_names_that_do_not_fit_get_the_nearest() -> None:
    """Misspelt tasks and probes, on either side."""
    groups = {"A": ("a1", "aa2"), "B": ("b",)}
    with pytest.raises(UserError, match=r"unknown task of .* in no group 'a2'. Did you mean 'aa2'\?"):
        balance(parse_scores(GROUPED), BalanceConfig(), groups)
    with pytest.raises(UserError, match=r"unknown task of the groups without a column in .* 'c'"):
        balance(parse_scores(GROUPED), BalanceConfig(), {"A": ("a1", "a2"), "B": ("b", "c")})
    with pytest.raises(UserError, match=r"unknown probe in .* 'vqaa'. Did you mean 'vqa'\?"):
        balance(parse_scores("probe,vqa,b\nmini,1,1\nvqaa,2,2\nb,1,2\n"), BalanceConfig())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("probe,a,b\nmini,1,1\na,2,2\n", r"no row 'b' \(the probe of 'b'\)"),
        ("probe,a,b\na,2,2\nb,1,2\n", r"no row 'mini' \(trained on the mini sets of all tasks\)"),
        ("probe,a,b\nmini,1,\na,2,2\nb,1,2\n", "probe 'mini' has no score of task 'b'"),
        ("probe,a,b\nmini,1,1\na,2,2\nb,1\n", "probe 'b' has no score of task 'b'"),
        ("probe,a,b\nmini,1,1\na,2,2\nb,1,0\n", "probe 'b' scores 0 on 'b'"),
        ("probe,a,b\nmini,1,1\na,-2,2\nb,1,3\n", "probe 'a' scores -2 on 'a'"),
    ],
)
def test_a_table_that_lacks_something(text: str, told: str) -> None:
    """The message names the probe and the task."""
    with pytest.raises(UserError, match=told):
        balance(parse_scores(text), BalanceConfig())


def test_groups_file() -> None:
    """YAML of names; everything else is refused with what was found."""
    assert parse_groups("vqa: [a, b]\ncap: [c]\n") == {"vqa": ("a", "b"), "cap": ("c",)}
    for text, told in (
        ("- a\n", "must map group names"),
        ("a: b\n", "group 'a' must be a list of task names, got 'b'"),
        ("a: []\n", "group 'a' must be a list"),
        ("a: [x]\nb: [x]\n", "task 'x' is in the groups 'a' and 'b'"),
        ("mini: [x]\n", "may not be called 'mini'"),
        ("a: [\n", "is not YAML"),
    ):
        with pytest.raises(UserError, match=told):
            parse_groups(text)
