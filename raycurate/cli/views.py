"""The commands that look at a run and make no noun: explain, diff, show, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from raycurate.cli.results import show_table
from raycurate.cli.support import AnsweringCommand, ReadableCommand, out, plain, run_argument
from raycurate.run.store import Run
from raycurate.samples.quarantine import printable

if TYPE_CHECKING:
    from raycurate.views.explain import Explanation

SHOWN_CHARS, CELL_CHARS = 2000, 60
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
GROUPS = {"tasks": "its task", "clusters": "its cluster", "cells": "its task in its cluster"}
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")


@click.command(cls=ReadableCommand, context_settings=SETTINGS)
@run_argument
@click.argument("row")
@click.option("--samples", default="main", help="Label of the samples.")
@click.option(
    "--ratio/--no-ratio",
    "ratio",
    default=None,
    help="Search the ratio that would keep it; default: up to 200,000 rows.",
)
@AS_JSON
def explain(run: str, row: str, samples: str, ratio: bool | None, as_json: bool) -> None:
    """Tell everything that happened to ROW, a key or an id of the source.

    \b
    Example:
      raycurate explain runs/mine 000000033471
    """
    from raycurate.views.explain import explain_row

    found = explain_row(Run(run), row, samples, search_ratio=ratio)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        return
    for title, text in _lines(found):
        out.print(f"[bold]{title:<10}[/] {_safe(text)}", highlight=False)


def _lines(found: Explanation) -> Iterator[tuple[str, str]]:
    source = found.source
    yield "key", found.key or "none"
    task = f", task {source['task']}" if "task" in source else ""
    reader = f", read as {source['reader']}" if source.get("reader") else ""
    yield "source", f"{source['source_file']}, row {source['source_row']}, id {source['source_id']}{task}{reader}"
    if found.refused is not None:
        yield "refused", f"{found.refused['reason']}: {found.refused['detail']}"
        yield "excerpt", found.refused["excerpt"]
        return
    for image in found.images:
        yield "image", image
    for turn in found.turns:
        yield turn["role"], " ".join(turn["text"].split())
    for name, refusal in found.rejected.items():
        yield "rejected", f"{name}: {refusal['reason']}: {refusal['detail']}"
    for label, values in found.features.items():
        yield "features", f"{label}: {values['dimension']:,} numbers, norm {values['norm']:.4g}"
    for label, values in found.clusters.items():
        yield "cluster", _cluster(label, values)
    for name, score in found.scores.items():
        if score["value"] is None or score["percentile"] is None:
            yield "score", f"{name}: none"
        else:
            yield "score", f"{name}: {score['value']:.6g}, above {score['percentile']:.1f} % of the rows"
    for label, mark in found.marks.items():
        yield "marked", f"{label}: {_mark(mark)}"
    for label, copies in found.copies.items():
        yield "copies", f"{label}: {copies['rows']:,} rows are marked as like this one: {', '.join(copies['keys'])}"
    for label, selection in found.selections.items():
        first, *others = _selection(label, selection)
        yield "selection", first
        yield from (("", line) for line in others)
    for label, epochs in found.trainings.items():
        yield "training", f"models/{label}: {_seen(epochs)}"
    for name, why in found.stale.items():
        yield "stale", why if f"'{name}'" in why else f"{name}: {why}"


def _seen(epochs: float | None) -> str:
    if epochs is None:
        return "the tokens that it was trained on are gone, so it cannot be told"
    if not epochs:
        return "not seen"
    return f"seen {epochs:.3g} times" + ("" if epochs == round(epochs) else ", on average of its rows")


def _cluster(label: str, values: dict[str, Any]) -> str:
    text = f"{label}: {values['cluster']}, of {values['size']:,} rows"
    if values["similarity"] is not None:
        text += f", cosine to its centroid {values['similarity']:.4f}"
    if values["nearest"] is None:
        return f"{text}; no neighbours: {values['not_searched']}"
    near = ", ".join(f"{each['key']} ({each['cosine']:.4f})" for each in values["nearest"])
    return f"{text}; nearest {near}" if near else text


def _mark(values: dict[str, Any]) -> str:
    if values["like"] is None:
        return str(values["reason"])
    text = f"{values['reason']}, like {values['like_source_id']} ({values['like']})"
    return text if values["similarity"] is None else f"{text}, similarity {values['similarity']:.3f}"


def _selection(label: str, values: dict[str, Any]) -> Iterator[str]:
    """What became of the row, then what its task, its cluster and both were given."""
    from raycurate.selection.base import REASONS

    state, _, why = REASONS.get(values["reason"], "").partition(": ")
    text = f"{label}: {'kept' if values['kept'] else 'dropped'} ({values['reason']}) by {values['method']}"
    text += f" at ratio {values['ratio']:g}"
    if values["rank"] is not None:
        text += f", rank {values['rank']}"
    yield f"{text}: {why}" if state and why else text
    for name, group in values["group"].items():
        if group:
            yield f"{GROUPS[name]}: {_given(group)}"
    if "kept_from_ratio" in values:
        ratio = values["kept_from_ratio"]
        if isinstance(ratio, float):
            yield f"a ratio of {ratio:.3f} would keep it"
        else:
            yield f"the ratio that would keep it {ratio}" if ratio else "no ratio would keep it"


def _given(group: dict[str, Any]) -> str:
    parts = [f"{group.get('rows', group.get('size')):,} rows"]
    if group.get("kept") is not None:
        parts = [f"{group['kept']:,} of {parts[0]} kept"]
    if group.get("quota") is not None:
        parts.append(f"quota {_number(group['quota'])}")
    if group.get("fair_rows") is not None:
        parts.append(f"its share is {_number(group['fair_rows'])}")
    if group.get("bound"):
        parts.append(f"held by its {group['bound']}")
    return ", ".join(parts)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@click.command(cls=AnsweringCommand, context_settings=SETTINGS)
@click.argument("first", metavar="RUN[:LABEL]")
@click.argument("second", metavar="RUN[:LABEL]")
@click.option("--quiet", is_flag=True, help="Print nothing: the exit code tells.")
@AS_JSON
def diff(first: str, second: str, quiet: bool, as_json: bool) -> None:
    """Tell how two selections differ and what caused it. Exit code: 0 the same rows, 1 different ones, 2 an error.

    \b
    Example:
      raycurate diff runs/mine:main runs/mine:d2
    """
    from raycurate.views.diff import diff_selections, lines_of

    found = diff_selections(first, second)
    if as_json and not quiet:
        click.echo(json.dumps(found.to_json(), indent=2))
    elif not quiet:
        for line in lines_of(found):
            out.print(_safe(line), highlight=False)
    if not found.same:
        raise click.exceptions.Exit(1)


@click.command(cls=ReadableCommand, context_settings=SETTINGS)
@run_argument
@click.option("--label", default="main", help="Of the selection.")
@click.option("--task", help="Rows of this task only.")
@click.option("--kept/--dropped", "kept", default=None, help="Kept or dropped rows only.")
@click.option("--reason", help="Rows with this reason only, such as over_quota.")
@click.option("--cluster", type=int, help="Rows of this cluster only.")
@click.option(
    "--limit", default=20, type=click.IntRange(1, 10_000), help="Rows to show: a sample of those that are asked for."
)
@click.option("--seed", default=0, help="Of the sample.")
@click.option("--html", "place", help="Write them with their pictures into this HTML file instead.")
@AS_JSON
def show(run: str, label: str, place: str | None, as_json: bool, **wanted: Any) -> None:
    """Show rows of a selection with their questions and answers.

    \b
    Example:
      raycurate show runs/mine --task parity --dropped --limit 20 --html dropped.html
    """
    from raycurate.views.rows import Wanted, chosen_rows, first_turns

    if place is not None:
        from raycurate.report.rows_page import write_rows

        if as_json:
            raise click.UsageError("--html and --json are two ways to show the same rows; give one of them")
        out.print(f"[bold]rows[/]      {plain(write_rows(Run(run), label, Wanted(**wanted), place))}", highlight=False)
        return
    total, rows = chosen_rows(Run(run), label, Wanted(**wanted))
    if as_json:
        click.echo(json.dumps([_without_bytes(row) for row in rows], indent=2))
        return
    table = Table("key", "task", "", "cluster", "rank", "reason", "question", "answer", box=None, padding=(0, 1, 0, 0))
    for row in rows:
        question, answer = (_line(text) for text in first_turns(row["messages"]))
        numbers = ("" if row[name] is None else str(row[name]) for name in ("cluster", "rank"))
        cells = (
            row["key"],
            _line(row["task"]),
            "kept" if row["kept"] else "-",
            *numbers,
            row["reason"],
            question,
            answer,
        )
        table.add_row(*(_safe(cell) for cell in cells))
    show_table(table)
    out.print(f"{len(rows):,} of {total:,} rows, by the hash of their keys and seed {wanted['seed']}", highlight=False)


def _line(text: str) -> str:
    """A text as one line of a table's cell."""
    line = " ".join(text.split())
    return line if len(line) <= CELL_CHARS else f"{line[: CELL_CHARS - 3]}..."


def _safe(text: str) -> str:
    """Text of the data for a terminal: neither markup nor control characters, at most `SHOWN_CHARS`."""
    return plain(printable(text, SHOWN_CHARS))


def _without_bytes(row: dict[str, Any]) -> dict[str, Any]:
    images = [{**image, "data": len(image["data"] or b"")} for image in row["images"]]
    return {**row, "images": images}


@click.command(cls=ReadableCommand, context_settings=SETTINGS)
@run_argument
@click.option("--label", default="main", help="Of the selection.")
@click.option(
    "--out", "place", help="HTML file; default: report.html in the run directory, report-LABEL.html for others."
)
@click.option(
    "--clusters", type=click.IntRange(1), default=6, help="Clusters of each kind in the gallery: largest, densest, ..."
)
@click.option("--rows", type=click.IntRange(1), default=6, help="Rows kept, and rows dropped, that are shown of each.")
@click.option("--seed", default=0, help="Of the sample.")
@click.option(
    "--relevancy",
    type=click.IntRange(0, 100),
    default=0,
    help="Rows with maps of the patches that made their answer; runs a model on them here.",
)
@click.option(
    "--folder", help="Write a folder of pages instead: index.html and, for each cluster shown, many more rows."
)
@click.option("--relevancy-model", help="Another model than the one of the features, for the maps.")
@click.option("--price-per-hour", type=float, help="Of the cluster: cost beside the time.")
def report(
    run: str,
    price_per_hour: float | None,
    label: str,
    place: str | None,
    clusters: int,
    rows: int,
    seed: int,
    relevancy: int,
    relevancy_model: str | None,
    folder: str | None,
) -> None:
    """Write one HTML file that shows what was chosen, why, and what it bought.

    \b
    Example:
      raycurate report runs/mine --out report.html
    """
    from raycurate.report.gallery import Sizes
    from raycurate.report.page import check_price, write_report
    from raycurate.report.places import check_folder, page_place

    if folder is not None and place is not None:
        raise click.UsageError("--folder and --out are two forms of the report; give one of them")
    check_price(price_per_hour)  # before a model runs for minutes
    if folder is None:
        page_place(Run(run), label, place)
    else:
        check_folder(Run(run), folder)
    maps = None
    if relevancy:
        from raycurate.report.relevancy import relevancy_maps
        from raycurate.report.relevancy_facts import AskedMaps

        maps = relevancy_maps(Run(run), label, AskedMaps(relevancy, relevancy_model, seed))
    elif relevancy_model is not None:
        raise click.UsageError("--relevancy-model goes with --relevancy N, the number of rows")
    sizes = Sizes(clusters, rows, seed)
    if folder is not None:
        from raycurate.report.folder import write_folder

        print_report_place(write_folder(Run(run), label, folder, sizes, maps, price_per_hour))
        return
    print_report_place(write_report(Run(run), label, place, sizes, maps, price_per_hour))


def print_report_place(place: str) -> None:
    """Where a report lies."""
    out.print(f"[bold]report[/]    {plain(place)}", highlight=False)
