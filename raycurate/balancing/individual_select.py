"""Individual Select: which candidate datasets to add to a baseline, by training on each (arXiv 2405.11850).

The model trained on baseline D is scored on m benchmarks, each on 0 to 100, with two seeds or more; for each candidate
c a model is trained on D and c, by the same recipe, and scored alike.

    score(x) = mean of the m benchmarks                 mu, sd = mean and sample deviation of score(D) over the seeds
    g_c      = score(D + c) - mu                        gain of the candidate, in points
    delta_cb = score_b(D + c) - mean over seeds of score_b(D)

    keep c if g_c > threshold_sds * sd, and delta_cb >= -largest_drop for every benchmark b (off by default);
    of those that remain in a category, the `top` with the highest g_c (off by default).

The kept categories are then added one after the other, the one with the largest sum of gains first, and trained and
scored again: `curve` gives the datasets of each step and the gain that would come if gains added up. The difference
to the gain that is measured is the interaction of the datasets.

The paper's threshold and numbers per category are not known: threshold, drop and top are settings of this project, and
the rule is a definition of it. Ties go by name.

Cost: nothing beside the trainings, one per candidate, per seed of the baseline, and per step of the curve.
Limits: g_c compares one training with the mean of n; were both noises alike, its deviation is sd sqrt(1 + 1/n), so
that threshold_sds = 1 passes about one useless candidate in four, and two or three seeds give only a rough sd. Score on
rows that the reported test does not have.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raycurate.errors import UserError, unknown_name

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The baseline over its seeds: `mean` and `sd` of the score, and the mean of each benchmark."""

    mean: float
    sd: float
    seeds: int
    benchmarks: Scores


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dataset of `rows` rows, and the scores of the model trained on the baseline and it."""

    name: str
    category: str
    rows: int
    scores: Scores


@dataclass(frozen=True, slots=True)
class Rule:
    """What a candidate must reach; None is no bound."""

    threshold_sds: float = 1.0
    largest_drop: float | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        if not self.threshold_sds >= 0:
            raise UserError(f"threshold_sds is {self.threshold_sds}; it must be 0 or more standard deviations")
        if self.largest_drop is not None and not self.largest_drop >= 0:
            raise UserError(f"largest_drop is {self.largest_drop}; it must be 0 or more points, or None")
        if self.top is not None and self.top < 1:
            raise UserError(f"top is {self.top}; it must be 1 dataset per category or more, or None")


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the decision table: `gain` in points, `deltas` by benchmark, and the reason in words."""

    candidate: Candidate
    mean: float
    gain: float
    deltas: Scores
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class CurveStep:
    """One model of the cumulative curve: the baseline and all `datasets`, the last of which are of `category`."""

    category: str
    added: tuple[str, ...]
    datasets: tuple[str, ...]
    summed_gain: float


def measure_baseline(seeds: Sequence[Scores]) -> Baseline:
    """Return the baseline's mean and deviation from its scores, one mapping of benchmarks per seed.

    Raises:
        UserError: fewer than two seeds, or seeds with different benchmarks or a score outside 0 to 100.
    """
    if len(seeds) < 2:
        raise UserError(f"the baseline has {len(seeds)} seed(s); its deviation needs 2 or more, better 3")
    names = tuple(seeds[0])
    for place, scores in enumerate(seeds):
        _check_scores(scores, names, f"seed {place} of the baseline")
    means = [statistics.fmean(scores.values()) for scores in seeds]
    benchmarks = {name: statistics.fmean(scores[name] for scores in seeds) for name in names}
    return Baseline(statistics.fmean(means), statistics.stdev(means), len(seeds), benchmarks)


def decide(baseline: Baseline, candidates: Sequence[Candidate], rule: Rule) -> list[Decision]:
    """Return one decision per candidate: by category, then gain falling, then name.

    Raises:
        UserError: a candidate given twice, or with other benchmarks than the baseline.
    """
    names = [candidate.name for candidate in candidates]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"candidate '{twice}' is given twice; give each dataset one name")
    judged = [judge(baseline, candidate, rule) for candidate in candidates]
    judged.sort(key=lambda d: (d.candidate.category, -d.gain, d.candidate.name))
    return _top_of_each(judged, rule.top)


def judge(baseline: Baseline, candidate: Candidate, rule: Rule) -> Decision:
    """Return the decision on one candidate by itself, without `rule.top`."""
    _check_scores(candidate.scores, tuple(baseline.benchmarks), f"candidate '{candidate.name}'")
    mean = statistics.fmean(candidate.scores.values())
    gain = mean - baseline.mean
    deltas = {name: candidate.scores[name] - base for name, base in baseline.benchmarks.items()}
    needed = rule.threshold_sds * baseline.sd
    worst = min(deltas, key=lambda name: deltas[name])
    bound = f"{rule.threshold_sds:g} sd = {needed:.3f}"
    if not gain > needed:
        chosen, reason = False, f"gain {gain:+.3f} is not above {bound}"
    elif rule.largest_drop is not None and deltas[worst] < -rule.largest_drop:
        chosen, reason = False, f"'{worst}' falls by {-deltas[worst]:.3f}, more than {rule.largest_drop:g}"
    else:
        chosen, reason = True, f"gain {gain:+.3f} is above {bound}"
    return Decision(candidate, mean, gain, deltas, chosen, reason)


def curve(decisions: Iterable[Decision]) -> list[CurveStep]:
    """Return the steps of the cumulative curve over the chosen datasets; empty where none is."""
    chosen: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        if decision.chosen:
            chosen[decision.candidate.category].append(decision)
    gains = {category: sum(d.gain for d in members) for category, members in chosen.items()}
    steps: list[CurveStep] = []
    datasets: tuple[str, ...] = ()
    summed = 0.0
    for category in sorted(gains, key=lambda name: (-gains[name], name)):
        added = tuple(decision.candidate.name for decision in chosen[category])
        datasets, summed = datasets + added, summed + gains[category]
        steps.append(CurveStep(category, added, datasets, summed))
    return steps


def _top_of_each(judged: Sequence[Decision], top: int | None) -> list[Decision]:
    if top is None:
        return list(judged)
    kept: dict[str, int] = defaultdict(int)
    decisions = []
    for d in judged:
        category = d.candidate.category
        kept[category] += d.chosen
        if d.chosen and kept[category] > top:
            reason = f"{d.reason}, but {top} of '{category}' come first"
            decisions.append(Decision(d.candidate, d.mean, d.gain, d.deltas, False, reason))
        else:
            decisions.append(d)
    return decisions


def _check_scores(scores: Scores, names: Sequence[str], where: str) -> None:
    if not names:
        raise UserError(f"{where} has no score; Individual Select needs at least one benchmark")
    for name, score in scores.items():
        if name not in names:
            raise unknown_name(f"benchmark of {where}", name, names)
        if not 0 <= score <= 100:
            raise UserError(f"{where} scores {score} on '{name}'; every benchmark must be scaled to 0 to 100")
    missing = [name for name in names if name not in scores]
    if missing:
        raise UserError(f"{where} has no score on {', '.join(missing)}; a mean over fewer benchmarks is another score")
