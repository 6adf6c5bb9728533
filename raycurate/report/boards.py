"""What trainings came to: the table, the figures and the evidence of every finished experiment of a run."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field

from raycurate.charts.figures import Figure
from raycurate.charts.marks import Interval
from raycurate.report.figures import figures_of, trainings_of
from raycurate.run.filesystem import exists, read_bytes
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.lineage import why_stale

TABLES = {
    "scoreboard": "scoreboard.csv",
    "sweeps": "results.csv",
    "choices": "",
    "balance": "difficulties.csv",
    "weightings": "scoreboard.csv",
    "individual_select": "decisions.csv",
    "transferability": "sources.csv",
    "scaling": "scaling.csv",
}
"""Kind of noun -> its table; a choice has none."""
NAMES = {
    "models": "Training",
    "scoreboard": "Scoreboard",
    "sweeps": "Sweep",
    "choices": "Choice of a method",
    "balance": "Weights of tasks",
    "weightings": "Weights, compared",
    "individual_select": "Individual Select",
    "transferability": "Transfer between clusters",
    "scaling": "Score by rows",
}
"""Kind of noun -> what a reader calls it."""
COMMANDS = {
    "clusters": (
        "a map and a gallery of clusters, and how alike rows are",
        "select {run} --method balanced --label mapped",
    ),
    "relevancy": ("which patches of its picture an answer was made of", "report {run} --label {label} --relevancy 6"),
    "models": ("the loss of each task as it is trained", "finetune {run} --selection {label} --model MODEL"),
    "scoreboard": (
        "methods with the intervals of their differences",
        "compare {run} --methods full,stratified,coincide",
    ),
    "sweeps": (
        "ratios, temperatures and methods side by side",
        "sweep {run} --methods stratified,coincide --ratios 0.1,0.2",
    ),
    "choices": (
        "which method small trainings prove",
        "choose {run} --methods stratified,coincide --model MODEL --ratio 0.2",
    ),
    "balance": ("what tasks give to each other, and their weights", "balance {run} --model MODEL --validation LABEL"),
    "individual_select": ("which further datasets pay", "individual-select --baseline {run} --candidates FILE"),
    "transferability": ("transfer between clusters, measured", "transferability {run} --sources 20 --targets 20"),
    "scaling": ("the score by rows", "scaling {run} --sizes 1000,10000"),
}
"""Kind of noun -> what it would show here, and the command that makes it."""
MOST_ROWS = 60


@dataclass(frozen=True, slots=True)
class Board:
    """One finished experiment.

    Attributes:
        title: noun and label.
        headings: of the table.
        rows: cells as text.
        left_out: further rows of the table.
        intervals: differences to `against`, by what they are compared with.
        at_chance: tasks that do not count, with why.
        why: of a choice.
        figures: in their order.
        stale: why it is out of date; '' where it is not.
    """

    title: str
    headings: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    left_out: int = 0
    intervals: dict[str, list[Interval]] = field(default_factory=dict)
    at_chance: list[str] = field(default_factory=list)
    why: str = ""
    figures: list[Figure] = field(default_factory=list)
    stale: str = ""

    @property
    def kind(self) -> str:
        """Of noun."""
        return self.title.split("/")[0]

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return NAMES[self.kind]


def boards_of(run: Run, selection: str) -> list[Board]:
    """The trainings on this selection, then every finished experiment, in the order of the data."""
    trainings = [
        Board(title=f"{noun.noun}/{noun.label}", figures=figures, stale=_stale(noun))
        for noun, figures in trainings_of(run, selection)
    ]
    made = [noun for noun in run.nouns() if noun.noun in TABLES and noun.manifest() is not None]
    return trainings + [_board(noun) for noun in made]


def missing_of(run: Run, selection: str, shown: Collection[str]) -> list[tuple[str, str]]:
    """What could be shown besides these kinds, and the command that makes it."""
    return [
        (what, f"raycurate {command.format(run=shlex.quote(run.uri), label=selection)}")
        for kind, (what, command) in COMMANDS.items()
        if kind not in shown
    ]


def _board(noun: Noun) -> Board:
    headings, rows = _table(noun)
    evidence = noun.read_json("evidence.json") or {}
    intervals: dict[str, list[Interval]] = {}
    for name, found in evidence.get("differences", {}).items():
        if found["percent"] is not None:
            low, high = found["interval"] or (None, None)
            intervals.setdefault(found["against"], []).append(Interval(name, found["percent"], low, high))
    choice = (noun.read_json("choice.json") or {}) if noun.noun == "choices" else {}
    return Board(
        title=f"{noun.noun}/{noun.label}",
        headings=headings,
        rows=rows[:MOST_ROWS],
        left_out=max(0, len(rows) - MOST_ROWS),
        intervals=intervals,
        at_chance=sorted(evidence.get("at_chance", {})),
        why=str(choice.get("why", "")),
        figures=figures_of(noun),
        stale=_stale(noun),
    )


def _stale(noun: Noun) -> str:
    """Why a finished noun is not what its inputs make now, such as another selection, and what makes it again."""
    manifest = noun.manifest()
    stale = None if manifest is None else why_stale(noun, manifest)
    return "" if stale is None else f"Out of date: {stale}; {stale.remedy} makes it again."


def _table(noun: Noun) -> tuple[list[str], list[list[str]]]:
    path = f"{noun.folder}/{TABLES[noun.noun]}"
    if not TABLES[noun.noun] or not exists(noun.filesystem, path):
        return [], []
    lines = list(csv.reader(io.StringIO(read_bytes(noun.filesystem, path).decode())))
    return (lines[0], [[_short(cell) for cell in line] for line in lines[1:]]) if lines else ([], [])


def _short(cell: str) -> str:
    """A number with four digits, other text as it is."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    return f"{number:.4g}" if "." in cell or "e" in cell else cell
