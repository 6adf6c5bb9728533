"""The gate: which selection method a measurement allows, against a champion that stays when nothing is proven.

    for each challenger c:  p_c = chance of a difference to the champion as large as measured, or larger, if c is no
                            better (`paired.py`: questions clustered by image, seeds counted)
    q_c = Holm's adjusted p_c over all challengers
    taken: the challenger of the largest difference among those with q_c <= level and a difference above zero;
           the champion where there is none

With one challenger q <= level says that the one-sided lower bound of its difference at 1 - level lies above zero. Holm
keeps the chance that any challenger that is no better is taken at the level, however many there are. The guarantee is
about the questions and trainings that were measured, at their number of rows: no rule can give one about others.

Cost: none beside the differences. Limits: a challenger without an error (too few images, nothing to compare) is never
taken. A gain that these questions and seeds cannot resolve is not found; the verdict says how small that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raycurate.evaluation.paired import Difference, holm


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one challenger.

    Attributes:
        percent: its difference to the champion; None where nothing can be compared.
        interval: of 95 %, two-sided.
        resolves: the smallest difference that could have been told from none.
        p_adjusted: Holm's; None without an error.
        taken: whether the gate takes it.
        why: in words.
    """

    percent: float | None
    interval: tuple[float, float] | None
    resolves: float | None
    p_adjusted: float | None
    taken: bool
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The method that is taken, and what was found about every challenger."""

    method: str
    champion: str
    level: float
    verdicts: Mapping[str, Verdict]

    @property
    def why(self) -> str:
        """The reason in one sentence."""
        if self.method != self.champion:
            found = self.verdicts[self.method]
            return f"'{self.method}' is better than '{self.champion}': {found.why}"
        if not self.verdicts:
            return f"'{self.champion}' has no challenger"
        if all(found.p_adjusted is None for found in self.verdicts.values()):
            return f"'{self.champion}' stays, as no challenger can be compared with it"
        return f"no challenger is proven better than '{self.champion}'"


def choose_method(champion: str, differences: Mapping[str, Difference], level: float = 0.05) -> Choice:
    """Take a challenger that is proven better than the champion, the best one of several; else the champion.

    Args:
        champion: the method that needs no proof.
        differences: challenger -> its difference to the champion, above zero where it is better.
        level: the chance, at most, of taking one that is no better.
    """
    assert 0 < level < 1, "a chance"
    p_values = {name: p for name, found in differences.items() if (p := found.p_better) is not None}
    adjusted = holm(p_values)
    passed = [name for name, p in adjusted.items() if p <= level and (differences[name].percent or 0.0) > 0]
    best = max(passed, key=lambda name: (differences[name].percent or 0.0, name), default=champion)
    verdicts = {
        name: _verdict(found, adjusted.get(name), level, taken=name == best, passed=name in passed)
        for name, found in differences.items()
    }
    return Choice(best, champion, level, verdicts)


def _verdict(found: Difference, p: float | None, level: float, *, taken: bool, passed: bool) -> Verdict:
    if p is None or found.percent is None:
        why = f"nothing can be compared: {found.why_no_error}" if found.percent is None else found.why_no_error
    else:
        shown = f"{found.percent:+.1f} %, adjusted p {p:.2g}"
        if taken:
            why = f"{shown} <= {level:g}"
        elif passed:
            why = f"{shown} <= {level:g}, but another one gains more"
        else:
            why = f"{shown} > {level:g}" if p > level else f"{shown}, no gain"
    return Verdict(found.percent, found.interval, found.resolves, p, taken, why)


def choice_record(choice: Choice) -> dict[str, Any]:
    """Plain values for JSON."""
    verdicts = {name: asdict(verdict) for name, verdict in choice.verdicts.items()}
    own = {"method": choice.method, "champion": choice.champion, "level": choice.level, "why": choice.why}
    return {**own, "verdicts": verdicts}
