"""Divide a number of rows among groups in proportion to weights, within bounds, exactly.

    share_g = clip(lambda w_g, low_g, high_g),   lambda such that the shares sum to the target
    rows_g  = floor(share_g), and one more for the largest fractional parts, ties to the group that comes first

Groups that the common factor would push out of a bound are set to it, and the rest is divided among the others: at each
round those above `high` if what they exceed it by is at least what the others fall short of `low` by, else those below
`low`; those on that side lie beyond their bound at the final lambda too. All of it is in integers: weights are taken
for the rational numbers that they are, so no rounding decides a tie.

A weight of zero gives a group its `low`; where all groups of positive weight are full, the rest goes to the others in
proportion to `high`. Cost: G multiplications of integers a round, and rarely more than ten rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

Weight = int | float | Fraction
BELOW, WITHIN, ABOVE = -1, 0, 1


@dataclass(frozen=True, slots=True)
class Apportioned:
    """What each group gets, in the order of the groups.

    Attributes:
        numerators: of the shares before rounding, over `denominator`.
        denominator: of all shares.
        rows: whole rows, which add up to the target.
        clipped: BELOW for a share that was raised to `low`, ABOVE for one that was cut to `high`, else WITHIN.
    """

    numerators: tuple[int, ...]
    denominator: int
    rows: tuple[int, ...]
    clipped: tuple[int, ...]

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The shares before rounding."""
        return tuple(Fraction(value, self.denominator) for value in self.numerators)


def apportion(
    weights: Sequence[Weight], target: int, high: Sequence[int], low: Sequence[int] | None = None
) -> Apportioned:
    """Divide `target` rows among groups.

    Args:
        weights: finite and 0 or more.
        target: between the sums of `low` and of `high`.
        high: the most that each group gets.
        low: the least; none by default.
    """
    least = [0] * len(weights) if low is None else list(low)
    assert sum(least) <= target <= sum(high), f"{target} is not within [{sum(least)}, {sum(high)}]"
    scaled = _whole(weights)
    free = list(range(len(scaled)))
    clipped, left, total = [WITHIN] * len(scaled), target, 0
    while free:
        total = sum(scaled[g] for g in free)
        if total == 0 and left > sum(least[g] for g in free):
            scaled = list(high)  # only groups of weight zero have room left
            continue
        total = max(total, 1)
        over = [g for g in free if left * scaled[g] > high[g] * total]
        under = [g for g in free if left * scaled[g] < least[g] * total]
        if not over and not under:
            break
        excess = sum(left * scaled[g] - high[g] * total for g in over)
        missing = sum(least[g] * total - left * scaled[g] for g in under)
        side, bound, mark = (over, high, ABOVE) if excess >= missing else (under, least, BELOW)
        for g in side:
            clipped[g] = mark
            left -= bound[g]
        free = [g for g in free if clipped[g] == WITHIN]
    denominator = max(total, 1)
    bounds = {ABOVE: high, BELOW: least}
    numerators = tuple(
        left * scaled[g] if mark == WITHIN else bounds[mark][g] * denominator for g, mark in enumerate(clipped)
    )
    return Apportioned(numerators, denominator, _rounded(numerators, denominator, target), tuple(clipped))


def _rounded(numerators: Sequence[int], denominator: int, target: int) -> tuple[int, ...]:
    rows = [value // denominator for value in numerators]
    by_remainder = sorted(range(len(rows)), key=lambda g: (-(numerators[g] % denominator), g))
    for g in by_remainder[: target - sum(rows)]:
        rows[g] += 1
    return tuple(rows)


def _whole(weights: Sequence[Weight]) -> list[int]:
    """The weights times one common factor, as integers."""
    if all(isinstance(weight, int) for weight in weights):
        return [int(weight) for weight in weights]
    exact = [Fraction(weight) for weight in weights]
    scale = lcm(*(value.denominator for value in exact))
    return [value.numerator * (scale // value.denominator) for value in exact]
