"""One HTML file from the parts of a report: styles and script inside, no network, no text of the data unescaped.

Pictures are data URIs that were encoded anew. The file stays below `MOST_BYTES`: the gallery is made smaller until it
does, and the page says how many rows it shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from raycurate.report.boards import boards_of, missing_of
from raycurate.report.charts import cluster_map, interval_chart, task_chart
from raycurate.report.cluster_figures import diversity_figures, transfer_figure
from raycurate.report.collect import (
    ClusterFacts,
    agreement,
    cluster_facts,
    counts_of,
    largest_tasks,
    quarantine_of,
    summary_of,
    task_bars,
)
from raycurate.report.diversity import diversity_of
from raycurate.report.figures import Figure
from raycurate.report.gallery import Sizes, shelves_of
from raycurate.report.geometry import Geometry, geometry_of, transfer_of_tasks
from raycurate.report.rendering import render
from raycurate.run.filesystem import absolute, resolve, write_bytes
from raycurate.run.store import Noun, Run
from raycurate.views.diff import selection_at

MOST_BYTES = 15 << 20
MOST_TASKS = 60


def build_report(run: Run, label: str = "main", sizes: Sizes | None = None) -> str:
    """The report of a selection.

    Raises:
        UserError: there is no finished selection with this label.
    """
    sizes = sizes or Sizes()
    page = render("page.html", _parts(run, label, sizes))
    while len(page.encode()) > MOST_BYTES and (sizes.per_kind > 1 or sizes.per_side > 1):
        sizes = Sizes(max(1, sizes.per_kind // 2), max(1, sizes.per_side // 2), sizes.seed)
        page = render("page.html", _parts(run, label, sizes))
    return page


def write_report(run: Run, label: str = "main", out: str | None = None, sizes: Sizes | None = None) -> str:
    """Write the report of a selection to a file or URI, by default into the run directory; where it lies."""
    name = "report.html" if label == "main" else f"report-{label}.html"
    place = absolute(out) if out is not None else f"{run.uri.rstrip('/')}/{name}"
    page = build_report(run, label, sizes)
    filesystem, path = resolve(place)
    write_bytes(filesystem, path, page.encode())
    return place


def _parts(run: Run, label: str, sizes: Sizes) -> dict[str, Any]:
    """What the template shows."""
    noun, manifest = selection_at(f"{run.uri}:{label}")
    config = manifest.description["config"]
    facts, bars = cluster_facts(noun), task_bars(noun)
    summary = summary_of(run, noun, manifest)
    clusters, counts = run.noun("clusters", config.get("clusters") or "main"), counts_of(noun)
    geometry = geometry_of(clusters, facts, largest_tasks(counts))
    facts = [each if each.transferability is not None else _with_s(each, geometry) for each in facts]
    shelves = shelves_of(run, noun, facts, [bar.task for bar in bars], sizes)
    boards = boards_of(run, label)
    shown = [shelf.facts.cluster for shelf in shelves if shelf.facts is not None]
    average = summary.kept / max(summary.rows, 1)
    return {
        "summary": summary,
        "bars": bars,
        "task_chart": task_chart(bars[:MOST_TASKS]),
        "most_tasks": MOST_TASKS,
        "agreement": agreement(counts) if counts else None,
        "clusters": len(facts),
        "map": cluster_map(geometry.dots, average, frozenset(shown)),
        "insights": _insights(run, noun, clusters, geometry, (counts, shown, sizes.seed)),
        "pairs": geometry.pairs,
        "shown": set(shown),
        "shelves": shelves,
        "sizes": sizes,
        "quarantine": quarantine_of(run, config["samples"]),
        "boards": [(board, {a: interval_chart(i, a) for a, i in board.intervals.items()}) for board in boards],
        "missing": missing_of(run, label, boards),
    }


def _with_s(fact: ClusterFacts, geometry: Geometry) -> ClusterFacts:
    return dataclasses.replace(fact, transferability=geometry.transferability.get(fact.cluster))


def _insights(
    run: Run,
    noun: Noun,
    clusters: Noun,
    geometry: Geometry,
    asked: tuple[Mapping[tuple[int, str], int], Sequence[int], int],
) -> list[Figure]:
    """The figures of the clusters: transferability of tasks, and how alike the kept rows are."""
    counts, shown, seed = asked
    manifest = clusters.manifest()
    if manifest is None or not counts:
        return []
    diversity = diversity_of(run, noun, manifest.description["config"].get("features"), shown, seed)
    figures = [transfer_figure(transfer_of_tasks(counts, geometry.transferability)[:MOST_TASKS])]
    return [*figures, *([] if diversity is None else diversity_figures(diversity))]
