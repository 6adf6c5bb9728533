"""One HTML file from the parts of a report: styles and script inside, no network, no text of the data unescaped.

Pictures are data URIs that were encoded anew. The file stays below `MOST_BYTES`: the gallery is made smaller until it
does, and the page says how many rows it shows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.charts.figures import Figure
from raycurate.charts.marks import MOST_NAME, cluster_map, interval_chart, task_chart
from raycurate.errors import UserError
from raycurate.report.boards import boards_of, missing_of
from raycurate.report.cluster_figures import diversity_figures, transfer_figure
from raycurate.report.collect import (
    ClusterFacts,
    agreement,
    cluster_facts,
    counts_of,
    largest_tasks,
    most_telling,
    quarantine_of,
    summary_of,
    task_bars,
)
from raycurate.report.diversity import Diversity, diversity_of
from raycurate.report.gallery import Shelf, Sizes, shelves_of, smaller
from raycurate.report.geometry import Geometry, geometry_of, transfer_of_tasks
from raycurate.report.places import page_place
from raycurate.report.relevancy_facts import RelevancyMaps
from raycurate.report.rendering import render
from raycurate.run.filesystem import resolve, write_bytes
from raycurate.run.store import Noun, Run
from raycurate.views.diff import finished_selection

MOST_BYTES = 15 << 20
MOST_TASKS = 60
MOST_TABLE = 500
"""Tasks of the table below the chart, and sources."""
MOST_SETTING = 2_000
"""Characters of a setting."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """What is known of the clusters, however many are shown.

    Attributes:
        facts: of each.
        counts: rows of each (cluster, task).
        geometry: what the centroids tell.
        average: part of all rows that is kept.
        diversity: how alike the kept rows are; None without features.
    """

    facts: Sequence[ClusterFacts]
    counts: Mapping[tuple[int, str], int]
    geometry: Geometry
    average: float
    diversity: Diversity | None = None


def build_report(
    run: Run,
    label: str = "main",
    sizes: Sizes | None = None,
    maps: RelevancyMaps | None = None,
    price_per_hour: float | None = None,
) -> str:
    """The report of a selection, with relevancy maps where they were made, and its cost where a price is given.

    Raises:
        UserError: there is no finished selection with this label, or the price is no number above 0.
    """
    sizes = sizes or Sizes()
    parts, clusters = report_parts(run, label, sizes, maps, price_per_hour)
    return fitting_page(parts, clusters, sizes)


def fitting_page(parts: dict[str, Any], clusters: Clusters, sizes: Sizes) -> str:
    """The page of these parts with a gallery of these sizes, or of so much smaller ones that it fits."""
    shelves = smaller(parts["shelves"], clusters.facts, sizes)
    page = render("page.html", parts | _gallery(shelves, clusters, sizes))
    while len(page.encode()) > MOST_BYTES and (sizes.per_kind > 1 or sizes.per_side > 1):
        sizes = dataclasses.replace(sizes, per_kind=max(1, sizes.per_kind // 2), per_side=max(1, sizes.per_side // 2))
        shelves = smaller(shelves, clusters.facts, sizes)
        page = render("page.html", parts | _gallery(shelves, clusters, sizes))
    return page


def write_report(
    run: Run,
    label: str = "main",
    out: str | None = None,
    sizes: Sizes | None = None,
    maps: RelevancyMaps | None = None,
    price_per_hour: float | None = None,
) -> str:
    """Write the report of a selection to a file or URI, by default into the run directory; where it lies.

    Raises:
        UserError: as `build_report`, or something lies there that is no page of raycurate.
    """
    place = page_place(run, label, out)
    page = build_report(run, label, sizes, maps, price_per_hour)
    filesystem, path = resolve(place)
    write_bytes(filesystem, path, page.encode())
    return place


def check_price(price_per_hour: float | None) -> None:
    """Raise `UserError` for a price that is no number above 0."""
    if price_per_hour is not None and not 0 < price_per_hour < math.inf:
        raise UserError(f"the price is {price_per_hour:g} an hour; it must be a number above 0")


def money(amount: float) -> str:
    """An amount to read: two decimals, or two digits of less than a hundredth."""
    return f"{amount:,.2f}" if amount >= 0.01 else f"{amount:.2g}"


def report_parts(
    run: Run, label: str, sizes: Sizes, maps: RelevancyMaps | None, price_per_hour: float | None
) -> tuple[dict[str, Any], Clusters]:
    """What the template shows whatever the size of its gallery, and what that is made from."""
    check_price(price_per_hour)
    noun, manifest = finished_selection(run, label)
    config = manifest.description["config"]
    bars, summary = task_bars(noun), summary_of(run, noun, manifest)
    clusters = _clusters(run, noun, summary.kept / max(summary.rows, 1))
    shelves = shelves_of(run, noun, clusters.facts, [bar.task for bar in bars], sizes)
    features = _features(run.noun("clusters", config.get("clusters") or "main"))
    if features is not None and clusters.counts:
        diversity = diversity_of(run, noun, features, _shown(shelves), sizes.seed)
        clusters = dataclasses.replace(clusters, diversity=diversity)
    boards = boards_of(run, label)
    shown = {board.kind for board in boards} | {
        kind for kind, there in (("relevancy", maps), ("clusters", clusters.facts)) if there
    }
    parts = {
        "summary": summary,
        "bars": bars,
        "table_bars": most_telling(bars, MOST_TABLE),
        "price": None if price_per_hour is None else money(price_per_hour),
        "cost": money(sum(seconds for _, seconds in summary.seconds) * (price_per_hour or 0.0) / 3600),
        "task_chart": task_chart(bars[:MOST_TASKS]),
        "most_tasks": MOST_TASKS,
        "most_table": MOST_TABLE,
        "most_name": MOST_NAME,
        "most_setting": MOST_SETTING,
        "agreement": agreement(clusters.counts) if clusters.counts else None,
        "clusters": len(clusters.facts),
        "pairs": clusters.geometry.pairs,
        "shelves": shelves,
        "more": {},
        "relevancy": maps,
        "quarantine": quarantine_of(run, config["samples"]),
        "boards": [(board, {a: interval_chart(i, a) for a, i in board.intervals.items()}) for board in boards],
        "missing": missing_of(run, label, shown),
    }
    return parts, clusters


def _clusters(run: Run, noun: Noun, average: float) -> Clusters:
    config = noun.require("select").description["config"]
    facts, counts = cluster_facts(noun), counts_of(noun)
    geometry = geometry_of(run.noun("clusters", config.get("clusters") or "main"), facts, largest_tasks(counts))
    known = [each if each.transferability is not None else _with_s(each, geometry) for each in facts]
    return Clusters(known, counts, geometry, average)


def _features(clusters: Noun) -> str | None:
    """The label of the features that clusters were made of."""
    manifest = clusters.manifest()
    return None if manifest is None else manifest.description["config"].get("features")


def _gallery(shelves: Sequence[Shelf], clusters: Clusters, sizes: Sizes) -> dict[str, Any]:
    """The parts that follow from what the gallery shows."""
    shown = _shown(shelves)
    return {
        "shelves": shelves,
        "sizes": sizes,
        "shown": set(shown),
        "map": cluster_map(clusters.geometry.dots, clusters.average, frozenset(shown)),
        "insights": _insights(clusters, shown),
    }


def _shown(shelves: Sequence[Shelf]) -> list[int]:
    return [shelf.facts.cluster for shelf in shelves if shelf.facts is not None]


def _with_s(fact: ClusterFacts, geometry: Geometry) -> ClusterFacts:
    return dataclasses.replace(fact, transferability=geometry.transferability.get(fact.cluster))


def _insights(clusters: Clusters, shown: Sequence[int]) -> list[Figure]:
    """The figures of the clusters: transferability of tasks, and how alike the kept rows are."""
    if not clusters.counts or not clusters.geometry.transferability:
        return []
    transfers = transfer_of_tasks(clusters.counts, clusters.geometry.transferability)
    figures = [transfer_figure(transfers[:MOST_TASKS], len(transfers))]
    if clusters.diversity is None:
        return figures
    within = {cluster: clusters.diversity.within[cluster] for cluster in shown}
    return [*figures, *diversity_figures(dataclasses.replace(clusters.diversity, within=within))]
