"""How two selections differ, and what caused it: settings, versions, inputs; rows, tasks, clusters, reasons.

    Jaccard = |A and B| / |A or B|       of the kept rows, matched by key: the two may be of different run directories

Cost: one pass over both selections, about 60 bytes a row; the keys of one are held (33 bytes a row).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.lineage import lost_files, made_from
from raycurate.stages.engine.remedies import told_commands

ABSENT = "not there"
"""The reason of a row that the other side does not have."""
COLUMNS = ["key", "task", "cluster", "kept", "reason"]
MOST = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """Two selections side by side.

    Attributes:
        names: of both, as they were asked for.
        kept: rows that each keeps.
        both: that both keep.
        jaccard: of the kept rows; 1 where both keep none.
        unknown: rows that only one of the two has at all.
        settings: setting -> both values, where they differ.
        inputs: noun -> both fingerprints, likewise; '' for one that is not read.
        versions: library -> both versions, likewise.
        tasks: task -> rows kept by both sides, the largest differences first.
        clusters: cluster -> likewise; empty where the clusters are not the same.
        reasons: why the other side dropped what one side keeps: reason -> rows, for both sides.
    """

    names: tuple[str, str]
    kept: tuple[int, int]
    both: int
    jaccard: float
    unknown: tuple[int, int]
    settings: dict[str, tuple[Any, Any]]
    inputs: dict[str, tuple[str, str]]
    versions: dict[str, tuple[str, str]]
    tasks: dict[str, tuple[int, int]]
    clusters: dict[str, tuple[int, int]]
    reasons: tuple[dict[str, int], dict[str, int]]

    @property
    def same(self) -> bool:
        """Whether both keep the same rows."""
        return self.both == self.kept[0] == self.kept[1]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "same": self.same}


def selection_at(place: str) -> tuple[Noun, Manifest]:
    """The finished selection of ``RUN`` or ``RUN:LABEL``.

    Raises:
        UserError: there is none.
    """
    uri, colon, label = place.rpartition(":")
    if not colon or "/" in label:  # s3://bucket/run
        uri, label = place, "main"
    return finished_selection(Run(uri), label)


def finished_selection(run: Run, label: str) -> tuple[Noun, Manifest]:
    """The selection of a run.

    Raises:
        UserError: it is not there, not finished, or not whole.
    """
    noun = run.noun("selection", label)
    manifest = noun.manifest()
    if manifest is None:
        labels = sorted(each.label for each in run.nouns() if each.noun == "selection" and each.manifest())
        there = f"there are {', '.join(labels)}" if labels else "`raycurate select` makes one"
        raise UserError(f"{run.uri} has no finished selection '{label}'; {there}")
    if lost := lost_files(noun, manifest):
        raise UserError(f"'selection/{label}' is not whole: {lost}. Run {told_commands([noun])} again.")
    return noun, manifest


def diff_selections(first: str, second: str) -> Difference:
    """Compare two selections, each named as ``RUN`` or ``RUN:LABEL``."""
    (a, a_made), (b, b_made) = selection_at(first), selection_at(second)
    b_rows = pa.concat_tables(list(b.iter_parts(COLUMNS))).combine_chunks()
    clusters_alike = _clusters_behind(a, a_made) == _clusters_behind(b, b_made) != set()
    counts = _Counts()
    for rows in a.iter_parts(COLUMNS):
        counts.add(rows, b_rows)
    total_b = int(pc.sum(b_rows["kept"]).as_py() or 0)
    b_tasks = Counter(b_rows.filter(b_rows["kept"])["task"].to_pylist())
    b_clusters = Counter(b_rows.filter(b_rows["kept"])["cluster"].to_pylist())
    if absent := total_b - counts.both - counts.only_second.total():
        counts.only_second[ABSENT] = absent
    either = counts.kept + total_b - counts.both
    return Difference(
        names=(first, second),
        kept=(counts.kept, total_b),
        both=counts.both,
        jaccard=counts.both / either if either else 1.0,
        unknown=(counts.rows - counts.shared, b_rows.num_rows - counts.shared),
        settings=_differing(a_made.description["config"], b_made.description["config"]),
        inputs=_differing(made_from(a_made.description), made_from(b_made.description), missing=""),
        versions=_differing(a_made.libraries, b_made.libraries, missing=""),
        tasks=_movers(counts.tasks, b_tasks),
        clusters=_movers(counts.clusters, b_clusters) if clusters_alike else {},
        reasons=(dict(counts.only_first.most_common()), dict(counts.only_second.most_common())),
    )


class _Counts:
    """What is added up over the parts of the first selection."""

    def __init__(self) -> None:
        self.rows = self.kept = self.both = self.shared = 0
        self.tasks: Counter[str] = Counter()
        self.clusters: Counter[int | None] = Counter()
        self.only_first: Counter[str] = Counter()
        self.only_second: Counter[str] = Counter()

    def add(self, rows: pa.Table, others: pa.Table) -> None:
        """Take in one part, beside all rows of the second selection."""
        place = pc.index_in(rows["key"], value_set=others["key"].combine_chunks())
        theirs = pc.fill_null(others["kept"].take(place), False)
        their_reason = others["reason"].take(place)
        mine = rows["kept"]
        kept = rows.filter(mine)
        self.rows += rows.num_rows
        self.shared += rows.num_rows - place.null_count
        self.kept += kept.num_rows
        self.both += int(pc.sum(pc.and_(mine, theirs)).as_py() or 0)
        self.tasks.update(kept["task"].to_pylist())
        self.clusters.update(kept["cluster"].to_pylist())
        only_first, only_second = pc.and_(mine, pc.invert(theirs)), pc.and_(theirs, pc.invert(mine))
        gone = pc.fill_null(their_reason.filter(only_first), ABSENT)
        self.only_first.update(gone.to_pylist())
        self.only_second.update(rows["reason"].filter(only_second).to_pylist())


def _clusters_behind(noun: Noun, manifest: Manifest) -> set[str]:
    """Fingerprints of the clusters that a noun comes from, by whatever lies between."""
    found: set[str] = set()
    for name, fingerprint in made_from(manifest.description).items():
        parent = Run(noun.run_uri).noun(*name.split("/", 1))
        if parent.noun == "clusters":
            found.add(fingerprint)
        elif (above := parent.manifest()) is not None:
            found |= _clusters_behind(parent, above)
    return found


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], missing: Any = None) -> dict[str, tuple[Any, Any]]:
    names = sorted({*first, *second})
    pairs = {name: (first.get(name, missing), second.get(name, missing)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _movers(first: Mapping[Any, int], second: Mapping[Any, int]) -> dict[str, tuple[int, int]]:
    """What is kept by both, where that differs, the largest differences first."""

    def largest(name: Any) -> tuple[int, str]:
        return -abs(first.get(name, 0) - second.get(name, 0)), str(name)

    names = sorted({*first, *second}, key=largest)
    found = {str(name): (first.get(name, 0), second.get(name, 0)) for name in names if name is not None}
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def _told(value: Any) -> Any:
    return "none" if value in (None, "") else value


def lines_of(found: Difference) -> Iterator[str]:
    """The difference in words, for a terminal."""
    a, b = found.names
    yield f"{a} keeps {found.kept[0]:,} rows, {b} keeps {found.kept[1]:,}; {found.both:,} are the same"
    yield f"Jaccard {found.jaccard:.4f}"
    if any(found.unknown):
        yield f"rows that only one has: {found.unknown[0]:,} of the first, {found.unknown[1]:,} of the second"
    groups = (("setting", found.settings), ("made from", found.inputs), ("version", found.versions))
    for title, values in groups:
        for name, (left, right) in values.items():
            yield f"{title} {name}: {_told(left)} -> {_told(right)}"
    for title, kept in (("task", found.tasks), ("cluster", found.clusters)):
        for name, (mine, theirs) in list(kept.items())[:MOST]:
            yield f"{title} {name}: {mine:,} -> {theirs:,}"
        if len(kept) > MOST:
            yield f"{len(kept) - MOST} more {title}s differ"
    for side, other, reasons in ((a, b, found.reasons[0]), (b, a, found.reasons[1])):
        if reasons:
            told = ", ".join(f"{reason} {rows:,}" for reason, rows in reasons.items())
            yield f"kept by {side} alone; in {other}: {told}"
