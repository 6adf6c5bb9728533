"""Which candidates are added, and why: rules by hand, and what must hold for any scores."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.balancing.individual_select import (
    Candidate,
    Rule,
    curve,
    decide,
    measure_baseline,
)
from raycurate.errors import UserError

SEEDS = [{"pope": 80.0, "mme": 60.0}, {"pope": 82.0, "mme": 60.0}, {"pope": 84.0, "mme": 60.0}]  # 71 with sd 1
BASELINE = measure_baseline(SEEDS)


def candidate(name: str, pope: float, mme: float, category: str = "ocr") -> Candidate:
    return Candidate(name, category, 1000, {"pope": pope, "mme": mme})


def chosen(decisions) -> list[str]:
    return [decision.candidate.name for decision in decisions if decision.chosen]


def test_baseline_over_seeds() -> None:
    """Mean and sample deviation of the seeds' scores, and the mean of each benchmark."""
    assert (BASELINE.mean, BASELINE.sd, BASELINE.seeds) == (71.0, 1.0, 3)
    assert BASELINE.benchmarks == {"pope": 82.0, "mme": 60.0}


def test_a_gain_must_be_above_the_threshold() -> None:
    """Exactly at it is not above; the reason has both numbers."""
    at, above, worse = candidate("at", 84, 60), candidate("above", 84.5, 60), candidate("worse", 80, 58)
    decisions = decide(BASELINE, [at, above, worse], Rule(threshold_sds=1))
    assert [d.candidate.name for d in decisions] == ["above", "at", "worse"]
    assert chosen(decisions) == ["above"]
    assert [d.reason for d in decisions] == [
        "gain +1.250 is above 1 sd = 1.000",
        "gain +1.000 is not above 1 sd = 1.000",
        "gain -2.000 is not above 1 sd = 1.000",
    ]
    assert decisions[0].deltas == {"pope": 2.5, "mme": 0.0}
    assert chosen(decide(BASELINE, [at, above], Rule(threshold_sds=0))) == ["above", "at"]


def test_no_benchmark_may_fall_too_far() -> None:
    """A gain that is paid for by another benchmark is refused where a bound is set."""
    lopsided = candidate("lopsided", 92, 57)
    assert chosen(decide(BASELINE, [lopsided], Rule())) == ["lopsided"]
    assert chosen(decide(BASELINE, [lopsided], Rule(largest_drop=3))) == ["lopsided"]
    [refused] = decide(BASELINE, [lopsided], Rule(largest_drop=2.5))
    assert not refused.chosen
    assert refused.reason == "'mme' falls by 3.000, more than 2.5"


def test_top_of_each_category() -> None:
    """The largest gains of each category stay; the others say so; ties go by name."""
    found = [candidate("b", 90, 60), candidate("a", 90, 60), candidate("c", 95, 60), candidate("d", 85, 60, "chat")]
    decisions = decide(BASELINE, found, Rule(top=2))
    assert [d.candidate.name for d in decisions] == ["d", "c", "a", "b"]
    assert chosen(decisions) == ["d", "c", "a"]
    assert decisions[-1].reason == "gain +4.000 is above 1 sd = 1.000, but 2 of 'ocr' come first"


def test_curve_adds_the_best_category_first() -> None:
    """Sets accumulate, and so does the gain that they had one by one."""
    found = [candidate("d", 90, 60, "chat"), candidate("a", 86, 60), candidate("c", 88, 60), candidate("no", 1, 1)]
    steps = curve(decide(BASELINE, found, Rule()))
    assert [(s.category, s.added, s.datasets) for s in steps] == [
        ("ocr", ("c", "a"), ("c", "a")),
        ("chat", ("d",), ("c", "a", "d")),
    ]
    assert [s.summed_gain for s in steps] == [5.0, 9.0]
    assert curve([]) == []


def test_seeds_that_agree_leave_the_sign() -> None:
    """A deviation of zero: any gain above zero passes."""
    still = measure_baseline([SEEDS[0], SEEDS[0]])
    decisions = decide(still, [candidate("a", 80.1, 60), candidate("b", 80, 60)], Rule(threshold_sds=2))
    assert chosen(decisions) == ["a"]


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ([SEEDS[0]], "has 1 seed"),
        ([SEEDS[0], {"pope": 1.0}], "seed 1 of the baseline has no score on mme"),
        ([SEEDS[0], {"pope": 1.0, "mmee": 2.0, "mme": 1.0}], "benchmark of seed 1 .* 'mmee'. Did you mean 'mme'"),
        ([SEEDS[0], {"pope": 1.0, "mme": 1500.0}], "scores 1500.0 on 'mme'; every benchmark must be scaled"),
        ([SEEDS[0], {"pope": 1.0, "mme": float("nan")}], "scores nan on 'mme'"),
        ([{}, {}], "no score"),
    ],
)
def test_scores_that_do_not_fit(seeds, told: str) -> None:
    """Named by seed and benchmark."""
    with pytest.raises(UserError, match=told):
        measure_baseline(seeds)


def test_candidates_and_rules_that_do_not_fit() -> None:
    """A name twice, a benchmark less, bounds without sense."""
    with pytest.raises(UserError, match="candidate 'a' is given twice"):
        decide(BASELINE, [candidate("a", 1, 1), candidate("a", 2, 2)], Rule())
    with pytest.raises(UserError, match="candidate 'a' has no score on mme"):
        decide(BASELINE, [Candidate("a", "ocr", 1, {"pope": 50.0})], Rule())
    for wrong in ({"threshold_sds": -1}, {"threshold_sds": float("nan")}, {"largest_drop": -1}, {"top": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Rule(**wrong)


POINTS = st.floats(0, 100)


@given(
    scores=st.lists(st.tuples(POINTS, POINTS, st.sampled_from("xyz")), max_size=8),
    sds=st.floats(0, 3),
    drop=st.none() | st.floats(0, 20),
    top=st.none() | st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_any_candidates(scores, sds: float, drop: float | None, top: int | None, order) -> None:
    """The rule's definition, whatever the order of the candidates; a stricter rule chooses a subset."""
    found = [candidate(f"d{place}", *row) for place, row in enumerate(scores)]
    decisions = decide(BASELINE, found, Rule(sds, drop, top))
    passing: dict[str, list[tuple[float, str]]] = {}
    for c in found:
        gain = statistics.fmean(c.scores.values()) - 71
        if gain > sds and (drop is None or min(c.scores["pope"] - 82, c.scores["mme"] - 60) >= -drop):
            passing.setdefault(c.category, []).append((-gain, c.name))
    expected = {name for members in passing.values() for _, name in sorted(members)[:top]}
    assert set(chosen(decisions)) == expected
    assert len(decisions) == len(found)
    assert set(chosen(decide(BASELINE, found, Rule(sds + 0.5, drop, top)))) <= expected
    order.shuffle(found)
    assert decide(BASELINE, found, Rule(sds, drop, top)) == decisions
    steps = curve(decisions)
    assert {name for step in steps for name in step.added} == expected
