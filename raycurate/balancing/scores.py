"""The score table: what each probe model scores on the validation set of each task; a CSV file that anyone can write.

    probe,vqa,ocr,caption
    mini,0.61,0.40,0.90        trained on the mini sets of all tasks
    vqa,0.70,0.41,0.91         trained on the whole of vqa (or a large part) and the mini sets of the others
    ocr,0.62,0.55,0.89
    caption,0.63,0.40,1.10

One row per probe, one column per task. Further rows that some readings need: `base` (the model before finetuning),
`mini:TASK` (trained on the mini set of that task only) and `alone:TASK` (trained on that task only); of these two
only the task's own column is read. With groups, a group's name stands where a task's would in the first column.

A score is higher where the model is better, on a scale with a true zero: turn an error or a loss round before. It
must come from rows that the reported test does not have. An empty cell is a score that was not taken: an error only
where it is needed. Anything else that is not a finite number is an error with its line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from raycurate.errors import UserError, unknown_name

MINI, BASE = "mini", "base"
MINI_OF, ALONE_OF = "mini:", "alone:"
Groups = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of probes on tasks.

    Attributes:
        tasks: the columns, in the order of the file.
        probes: the rows, in the order of the file.
        scores: score by (probe, task); a cell that is empty in the file is not here.
        where: the file's name, for messages.
    """

    tasks: tuple[str, ...]
    probes: tuple[str, ...]
    scores: Mapping[tuple[str, str], float]
    where: str = "the score table"

    def score(self, probe: str, task: str) -> float:
        """Return one score. Raises `UserError` where there is none, with what the probe is."""
        if probe not in self.probes:
            raise UserError(f"{self.where} has no row '{probe}' ({explain_probe(probe)}). Rows: {_listed(self.probes)}")
        if (probe, task) not in self.scores:
            raise UserError(f"{self.where}: probe '{probe}' has no score of task '{task}'")
        return self.scores[probe, task]


def explain_probe(probe: str) -> str:
    """Return in words what a probe is trained on."""
    if probe == MINI:
        return "trained on the mini sets of all tasks"
    if probe == BASE:
        return "the model before finetuning"
    kind, colon, task = probe.partition(":")
    if colon and f"{kind}:" in (MINI_OF, ALONE_OF):
        return f"trained on {'the mini set of ' if kind == MINI else ''}'{task}' alone"
    return f"the probe of '{probe}'"


def parse_scores(text: str, where: str = "the score table") -> ScoreTable:
    """Return the table in a CSV text.

    Raises:
        UserError: no header or no row, a name that is missing or given twice, a row with more cells than the header,
            a cell that is no finite number; the message has the line.
    """
    lines = _lines(text, where)
    header = next(lines, (0, []))[1]
    tasks = tuple(header[1:])
    if not tasks:
        raise UserError(f"{where} needs a header line of comma-separated names: probe,TASK,TASK,...; got {header}")
    check_names("task", tasks, f"{where}, line 1")
    scores: dict[tuple[str, str], float] = {}
    probes: dict[str, int] = {}
    for number, (probe, *cells) in lines:
        line = f"{where}, line {number}"
        if not probe:
            raise UserError(f"{line}: the first cell is empty; it names the probe, such as 'mini' or a task")
        if probe in probes:
            raise UserError(f"{line}: probe '{probe}' is given twice, first in line {probes[probe]}")
        if len(cells) > len(tasks):
            raise UserError(f"{line}: {len(cells)} scores for {len(tasks)} tasks; quote names that have a comma")
        probes[probe] = number
        for task, cell in zip(tasks, cells, strict=False):
            if cell:
                scores[probe, task] = _number(cell, f"{line}, task '{task}'")
    if not probes:
        raise UserError(f"{where} has a header and no row below it; expected are rows such as 'mini' and one per task")
    return ScoreTable(tasks, tuple(probes), scores, where)


def parse_groups(text: str, where: str = "the groups") -> dict[str, tuple[str, ...]]:
    """Return {group: tasks} of a YAML text.

    Raises:
        UserError: no YAML, or anything but a mapping of names to lists of names, each task in one group.
    """
    try:
        values: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {error}") from None
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{where} must map group names to lists of tasks, such as 'vqa: [vqav2, gqa]'; got {values!r}")
    home: dict[str, str] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for group, tasks in values.items():
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
            raise UserError(f"{where}: group '{group}' must be a list of task names, got {tasks!r}")
        for task in tasks:
            if task in home:
                raise UserError(f"{where}: task '{task}' is in the groups '{home[task]}' and '{group}'; keep one")
            home[task] = str(group)
        groups[str(group)] = tuple(tasks)
    check_names("group", tuple(groups), where)
    return groups


def check_probes(table: ScoreTable, units: Collection[str]) -> None:
    """Raise `UserError` for a row that is no probe of `units`, with the nearest name."""
    known = [MINI, BASE, *(f"{prefix}{unit}" for prefix in ("", MINI_OF, ALONE_OF) for unit in units)]
    for probe in table.probes:
        if probe not in known:
            near = known if ":" in probe else [MINI, BASE, *units]
            raise unknown_name(f"probe in {table.where}", probe, near)


def check_names(kind: str, names: Sequence[str], where: str) -> None:
    """Raise `UserError` for a name of a task or group that is empty, given twice or that of a probe."""
    for place, name in enumerate(names):
        if not name:
            raise UserError(f"{where}: {kind} {place + 1} has no name")
        if name in names[:place]:
            raise UserError(f"{where}: {kind} '{name}' is given twice")
        if name in (MINI, BASE) or name.startswith((MINI_OF, ALONE_OF)):
            raise UserError(f"{where}: a {kind} may not be called '{name}', which names a probe; rename it")


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the stripped cells of every line that has any."""
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    try:
        for line in lines:
            cells = [cell.strip() for cell in line]
            if any(cells):
                yield lines.line_num, cells
    except csv.Error as error:
        raise UserError(f"{where}, line {lines.line_num}: {error}") from None


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: '{text}' is not a number; leave a score that was not taken empty") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: '{text}' is not finite; leave a score that was not taken empty")
    return value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
