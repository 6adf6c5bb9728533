"""Rows that were asked for, as a page of cards: what `raycurate show --html` writes."""

from __future__ import annotations

from raycurate.report.gallery import card_of, pictures_of
from raycurate.report.places import check_page
from raycurate.report.rendering import render
from raycurate.run.filesystem import absolute, resolve, write_bytes
from raycurate.run.store import Run
from raycurate.views.diff import finished_selection
from raycurate.views.rows import Wanted, chosen_rows


def build_rows(run: Run, label: str, wanted: Wanted) -> str:
    """The page.

    Raises:
        UserError: no such selection or task.
    """
    total, rows = chosen_rows(run, label, wanted)
    _, manifest = finished_selection(run, label)
    pictures = pictures_of(run.noun("samples", manifest.description["config"]["samples"]))
    parts = {
        "title": _title(wanted),
        "label": label,
        "run": run.uri,
        "total": total,
        "wanted": wanted,
        "cards": [card_of(row, row, pictures) for row in rows],
    }
    return render("page.rows.html", parts)


def write_rows(run: Run, label: str, wanted: Wanted, out: str) -> str:
    """Write the page to a file or URI; where it lies.

    Raises:
        UserError: as `build_rows`, or something lies there that is no page of raycurate.
    """
    place = absolute(out)
    check_page(place)
    filesystem, path = resolve(place)
    write_bytes(filesystem, path, build_rows(run, label, wanted).encode())
    return place


def _title(wanted: Wanted) -> str:
    """What is asked for, in words."""
    words = ["Rows" if wanted.kept is None else "Kept rows" if wanted.kept else "Dropped rows"]
    if wanted.task is not None:
        words.append(f"of {wanted.task}")
    if wanted.cluster is not None:
        words.append(f"in cluster {wanted.cluster}")
    if wanted.reason is not None:
        words.append(f"because {wanted.reason}")
    return " ".join(words)
