"""CoTBal: the weight of a task from what it gives to the others, takes from them, and lacks (arXiv 2403.04343).

N + 1 probe models are trained: one on the mini sets of all tasks, and for each task i one on the whole of i and the
mini sets of the others. V_j(x) is the validation score of probe x on task j, higher where better.

    C_{i->j} = (V_j(i+mini) - V_j(mini)) / (V_j(j+mini) - V_j(mini))                                (3)
    C_out,i  = (1 / (N-1)) sum_{j != i} C_{i->j}        lambda_out = N softmax( C_out / T)          (4)-(5)
    C_in,i   = (1 / (N-1)) sum_{j != i} C_{j->i}        lambda_in  = N softmax(-C_in / T)           (6)-(7)
    lambda_inter = (lambda_out + lambda_in) / 2                                                     (8)
    D_i = 1 - V_i(mini) / V_i(i+mini)                   lambda_D   = N softmax( D / T)              (9)-(10)
    lambda = a_out lambda_out + a_in lambda_in + a_D lambda_D,   by default 1/4, 1/4, 1/2           (11)

The shares a come from the third version of the paper; its first two have the default only. `probes.py` has the chat
form, the precise difficulty and groups. Each of the five vectors has mean 1 over the balanced units; a task of fixed
weight is beside them.

Denominators. The denominator of (3) is what the whole of task j gains on j over its mini set. Where it is negative,
the column's signs are turned and the ratio says the opposite of what it should; where it is near zero, a small
difference of scores, noise perhaps, fills the column. Nothing is clipped: such a task is in `Balance.concerns` with
the number, as a part of the score of the task's own probe. An exact zero is an error.

Cost: N^2 divisions. What costs is the N + 1 trainings that make the table.
Limits: each probe is one training, so a weight has the noise of single runs, which the table cannot show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycurate.balancing.config import BalanceConfig
from raycurate.balancing.probes import NO_GAIN, read_probes
from raycurate.balancing.scores import Groups, ScoreTable
from raycurate.errors import UserError

Array = NDArray[np.float64]
Alpha = tuple[float, float, float]

DEFAULT_ALPHA: Alpha = (0.25, 0.25, 0.5)
FLOOR = 0.05
_STEP = 1.01


@dataclass(frozen=True, slots=True)
class Weights:
    """The five weight vectors [N] of one temperature, each of mean 1."""

    temperature: float
    out_N: Array
    in_N: Array
    difficulty_N: Array
    final_N: Array

    @property
    def inter_N(self) -> Array:
        """Return lambda_inter of Eq. 8."""
        return (self.out_N + self.in_N) / 2


@dataclass(frozen=True, slots=True)
class Concern:
    """A denominator of Eq. 3 that a reader should know of: `gain` is a part of the score of the unit's own probe."""

    unit: str
    gain: float

    def __str__(self) -> str:
        kind = "is negative: its column has turned signs" if self.gain < 0 else "is near zero: its column may be noise"
        return f"'{self.unit}' gains {100 * self.gain:.3g} % from its whole data, which {kind}"


@dataclass(frozen=True, slots=True)
class Balance:
    """What `balance` found.

    Attributes:
        units: the N tasks or groups that were balanced.
        contribution_NN: C; row i, column j: what unit i gives to unit j. Ones on the diagonal.
        gain_N: the denominators of C's columns, as a part of the score of the unit's own probe.
        out_N: C_out.
        in_N: C_in.
        difficulty_N: D.
        weights: the weight vectors.
        concerns: denominators that are negative or near zero.
        by_task: the final weight of every task, those of fixed weight included.
    """

    units: tuple[str, ...]
    contribution_NN: Array
    gain_N: Array
    out_N: Array
    in_N: Array
    difficulty_N: Array
    weights: Weights
    concerns: tuple[Concern, ...]
    by_task: Mapping[str, float]


def balance(table: ScoreTable, config: BalanceConfig, groups: Groups | None = None) -> Balance:
    """Return the weights of the tasks in a score table.

    Raises:
        UserError: a table that does not have what the settings need (`probes.read_probes`), a denominator of zero,
            or with `strict` one that is near zero or negative.
    """
    probes = read_probes(table, config, groups)
    gain_N = 1 - probes.start_N
    for unit, gain in zip(probes.units, gain_N, strict=True):
        if abs(gain) <= NO_GAIN:
            raise UserError(
                f"{table.where}: '{unit}' scores the same with its whole data as without it, so what others give to "
                f"it has no measure. Probe it with more data, or leave it out (--fixed '{unit}=1')"
            )
    concerns = tuple(
        Concern(unit, float(gain)) for unit, gain in zip(probes.units, gain_N, strict=True) if gain < config.near_zero
    )
    if concerns and config.strict:
        raise UserError("; ".join(str(concern) for concern in concerns))
    contribution_NN = (probes.full_NN - probes.start_N) / gain_N
    out_N, in_N = outward_inward(contribution_NN)
    measures = out_N, in_N, probes.difficulty_N
    temperature = config.temperature
    if temperature == "auto":
        temperature = smallest_temperature(*measures, alpha=config.alpha, lowest=config.lowest, highest=config.highest)
    weights = weigh(*measures, temperature=temperature, alpha=config.alpha)
    by_task = {
        task: float(weight)
        for unit, weight in zip(probes.units, weights.final_N, strict=True)
        for task in probes.members[unit]
    }
    return Balance(
        units=probes.units,
        contribution_NN=contribution_NN,
        gain_N=gain_N,
        out_N=out_N,
        in_N=in_N,
        difficulty_N=probes.difficulty_N,
        weights=weights,
        concerns=concerns,
        by_task={**by_task, **config.fixed},
    )


def outward_inward(contribution_NN: Array) -> tuple[Array, Array]:
    """Return C_out and C_in, [N] each: means of the rows and of the columns without the diagonal. N is 2 or more."""
    count = contribution_NN.shape[0]
    assert contribution_NN.shape == (count, count)
    assert count > 1
    others_NN = contribution_NN * ~np.eye(count, dtype=bool)
    return others_NN.sum(axis=1) / (count - 1), others_NN.sum(axis=0) / (count - 1)


def weigh(
    out_N: Array, in_N: Array, difficulty_N: Array, *, temperature: float, alpha: Alpha = DEFAULT_ALPHA
) -> Weights:
    """Return the weights of Eqs. 5, 7, 10 and 11 from C_out, C_in and D."""
    parts_3N = np.stack([_softmax(values_N / temperature) for values_N in (out_N, -in_N, difficulty_N)])
    return Weights(temperature, parts_3N[0], parts_3N[1], parts_3N[2], np.array(alpha) @ parts_3N)


def smallest_temperature(
    out_N: Array,
    in_N: Array,
    difficulty_N: Array,
    *,
    alpha: Alpha = DEFAULT_ALPHA,
    lowest: float = 0.5,
    highest: float = 2.0,
) -> float:
    """Return the smallest temperature, not below `FLOOR`, whose final weights are all in [lowest, highest].

    A softmax at T over values of range r has N p in [exp(-r/T), exp(r/T)]: from T = r / ln(min(highest, 1/lowest)) on
    every mixture is inside, so there is an answer. Below it a final weight may leave the bounds and come back (the
    three softmaxes pull apart), so temperatures are tried upwards in steps of 1 %, and the first step that is inside
    is bisected. The result is inside; a window narrower than 1 % may be passed over.
    """
    assert 0 <= lowest < 1 < highest
    widest = max(float(np.ptp(values_N)) for values_N in (out_N, in_N, difficulty_N))
    reach = min(np.log(highest), -np.log(lowest) if lowest > 0 else np.inf)

    def inside(temperature: float) -> bool:
        final_N = weigh(out_N, in_N, difficulty_N, temperature=temperature, alpha=alpha).final_N
        return bool(lowest <= final_N.min() and final_N.max() <= highest)

    safe = widest / float(reach) * (1 + 1e-9)
    below, above = FLOOR, FLOOR
    while above < safe and not inside(above):
        below, above = above, above * _STEP
    while above - below > 1e-9 * above:
        middle = (below + above) / 2
        below, above = (below, middle) if inside(middle) else (middle, above)
    return above


def _softmax(values_N: Array) -> Array:
    """N softmax, of mean 1."""
    shifted_N = np.exp(values_N - values_N.max())
    return len(values_N) * shifted_N / shifted_N.sum()
