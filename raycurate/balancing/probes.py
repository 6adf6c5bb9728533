"""From a score table to the arrays that CoTBal's equations take, for tasks or for groups of tasks.

The unit of balancing is a task, or a group of tasks that shares one weight. How several scores make the one score of
a group is not said in the paper (arXiv 2403.04343). Here every score is divided by the score of the same task under
its own unit's probe, and the ratios are averaged over the tasks of the unit:

    R_j(x) = mean over tasks t of unit j of V_t(x) / V_t(probe of j)        so that R_j(probe of j) = 1

    C_{i->j} = (R_j(i) - R_j(mini)) / (1 - R_j(mini))         D_j = 1 - R_j(mini)

For a unit of one task these are the paper's Eqs. 3 and 9. For a group D_j is the mean of its tasks' difficulties, and
a task counts the same whether its metric runs to 1 or to 2000. The chat form has `base` for `mini` in C (Eq. 15). The
precise difficulty is the mean of 1 - V_t(mini:j) / V_t(alone:j) (Eq. 17); in the chat form the probes are trained on
one task alone already, and D_j is that of `mini:j` and `j` (Eq. 16).

A table may also hold the scores of groups directly, one column per group.

Limits: a ratio needs scores above zero. Cost: one pass over the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycurate.balancing.config import BalanceConfig
from raycurate.balancing.scores import ALONE_OF, BASE, MINI, MINI_OF, Groups, ScoreTable, check_probes
from raycurate.errors import UserError, unknown_name

Array = NDArray[np.float64]

NO_GAIN = 1e-12
"""A relative difference of scores that rounding alone can make."""


@dataclass(frozen=True, slots=True)
class Probes:
    """Scores of N units relative to each unit's own probe.

    Attributes:
        units: tasks or groups.
        members: the tasks that get a unit's weight.
        start_N: R_j of the probe that all start from, `mini` or `base`.
        full_NN: row i, column j: R_j of the probe of unit i; ones on the diagonal.
        difficulty_N: D.
    """

    units: tuple[str, ...]
    members: Mapping[str, tuple[str, ...]]
    start_N: Array
    full_NN: Array
    difficulty_N: Array


def read_probes(table: ScoreTable, config: BalanceConfig, groups: Groups | None = None) -> Probes:
    """Return the relative scores of the units; tasks of fixed weight are left out.

    Raises:
        UserError: an unknown probe, a task in no group or a group's task without scores, a missing score, a score
            that must be above zero and is not, or fewer than two units.
    """
    columns, members = _units(table, groups, config.fixed)
    check_probes(table, columns)
    columns = {unit: tuple(t for t in tasks if t not in config.fixed) for unit, tasks in columns.items()}
    units = tuple(unit for unit, tasks in columns.items() if tasks)
    if len(units) < 2:
        raise UserError(
            f"balancing needs at least 2 {'tasks' if groups is None else 'groups'}, got {len(units)} of no fixed "
            f"weight in {table.where}: one alone has the weight 1 whatever it scores"
        )
    start = MINI if config.form == "mini" else BASE
    _check_form(table, start)
    if config.form == "chat":
        small, large = MINI_OF, ""
    else:
        small, large = (MINI_OF, ALONE_OF) if config.difficulty == "precise" else (MINI, "")

    def relative(probe: str, unit: str, reference: str) -> float:
        ratios = [table.score(probe, task) / _positive(table, reference, task) for task in columns[unit]]
        return float(np.mean(ratios))

    return Probes(
        units=units,
        members={unit: tuple(t for t in members[unit] if t not in config.fixed) for unit in units},
        start_N=np.array([relative(start, unit, unit) for unit in units]),
        full_NN=np.array([[relative(probe, unit, unit) for unit in units] for probe in units]),
        difficulty_N=np.array(
            [1 - relative(small if small == MINI else small + unit, unit, large + unit) for unit in units]
        ),
    )


def unmeasured_tasks(table: ScoreTable, config: BalanceConfig, groups: Groups | None = None) -> dict[str, str]:
    """Return the tasks, but those of fixed weight, for which the equations have no number, and why.

    That is a task without a score above zero under its own unit's probe, or in every task of a unit whose whole data
    brings no difference at all. With these fixed the other tasks can be balanced.
    """
    columns, _ = _units(table, groups, config.fixed)
    start = MINI if config.form == "mini" else BASE
    found: dict[str, str] = {}
    for unit, tasks in columns.items():
        own = [task for task in tasks if task not in config.fixed]
        scores = {task: table.scores.get((unit, task)) for task in own}
        found |= {task: "has no score" for task, score in scores.items() if score is None}
        found |= {
            task: f"scores {score:g} after training on it"
            for task, score in scores.items()
            if score is not None and not score > 0
        }
        left = [task for task in own if task not in found]
        ratios = [table.score(start, task) / table.score(unit, task) for task in left]
        if left and abs(1 - float(np.mean(ratios))) <= NO_GAIN:
            found |= dict.fromkeys(left, "scores the same with its whole data as without it")
    return found


def _units(
    table: ScoreTable, groups: Groups | None, fixed: Collection[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The scored columns of each unit, and the tasks that get its weight."""
    if groups is None:
        alone: dict[str, tuple[str, ...]] = {task: (task,) for task in table.tasks}
        return alone, alone
    members = {group: tuple(tasks) for group, tasks in groups.items()}
    grouped = {task for tasks in members.values() for task in tasks}
    for name in fixed:
        if name in members and name not in grouped:
            raise UserError(f"'{name}' of fixed weight is a group; fix its tasks: {', '.join(members[name])}")
    if set(table.tasks) == set(members):
        return {group: (group,) for group in members}, members
    _same_names(f"task of {table.where} in no group", table.tasks, grouped)
    _same_names(f"task of the groups without a column in {table.where}", grouped, table.tasks)
    return members, members


def _same_names(kind: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)


def _check_form(table: ScoreTable, start: str) -> None:
    other, form = (BASE, "chat") if start == MINI else (MINI, "mini")
    if start not in table.probes and other in table.probes:
        raise UserError(
            f"{table.where} has no row '{start}' but a row '{other}': read it with --form {form} "
            f"({'Eq. 15' if form == 'chat' else 'Eq. 3'}), or add the row '{start}'"
        )


def _positive(table: ScoreTable, probe: str, task: str) -> float:
    score = table.score(probe, task)
    if not score > 0:
        raise UserError(
            f"{table.where}: probe '{probe}' scores {score:g} on '{task}', where a score above 0 is needed to divide "
            "by. Scores must be higher where the model is better, on a scale with a true zero; or leave the task out "
            f"of the balancing with a weight of its own (--fixed '{task}=1')"
        )
    return score
