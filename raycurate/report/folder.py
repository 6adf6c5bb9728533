"""The report as a folder: `index.html` with the gallery, and for each of its clusters pages of many more rows.

A page is read when its link is opened, so the folder may hold what no single file could. Every page is as the report
itself: pictures inside, everything escaped, the policy that forbids every request. The index is written last.

Cost: as of the report, with `MOST_ROWS` rows a side of each cluster, some 4 KB in memory and on disk each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow.fs as pafs

from raycurate.report.gallery import Card, Shelf, Sizes
from raycurate.report.page import fitting_page, report_parts
from raycurate.report.places import INDEX, check_folder
from raycurate.report.relevancy_facts import RelevancyMaps
from raycurate.report.rendering import render
from raycurate.run.filesystem import absolute, list_files, resolve, write_bytes
from raycurate.run.store import Run

MOST_ROWS = 240
PAGE_ROWS = 60
SIDES = ("kept", "dropped")
OWN_PAGE = re.compile(r"(cluster|task)-\d+-(kept|dropped)-\d+\.html")


def write_folder(
    run: Run,
    label: str,
    folder: str,
    sizes: Sizes,
    maps: RelevancyMaps | None = None,
    price_per_hour: float | None = None,
) -> str:
    """Write the pages of a selection; where the index lies.

    Raises:
        UserError: there is no finished selection with this label, or the place is taken by something else.
    """
    filesystem, path = resolve(absolute(folder))
    check_folder(run, folder)
    large = replace(sizes, per_side=max(MOST_ROWS, sizes.per_side))
    parts, clusters = report_parts(run, label, large, maps, price_per_hour)
    shelves: Sequence[Shelf] = parts["shelves"]
    more = {shelf.anchor: [(side, _names(shelf, side)) for side in SIDES] for shelf in shelves}
    _remove_pages(filesystem, path)
    for shelf in shelves:
        for name, page in _pages(shelf, run.uri, label):
            write_bytes(filesystem, f"{path}/{name}", page.encode())
    index = fitting_page(parts | {"more": more}, clusters, sizes)
    write_bytes(filesystem, f"{path}/{INDEX}", index.encode())
    return f"{absolute(folder).rstrip('/')}/{INDEX}"


def _remove_pages(filesystem: pafs.FileSystem, folder: str) -> None:
    """Take away the pages of an earlier report, by their names; other files stay."""
    for info in list_files(filesystem, folder, ".html"):
        if info.base_name == INDEX or OWN_PAGE.fullmatch(info.base_name):
            filesystem.delete_file(info.path)


def _cards(shelf: Shelf, side: str) -> list[Card]:
    return shelf.kept if side == "kept" else shelf.dropped


def _names(shelf: Shelf, side: str) -> list[str]:
    """Of the pages of one side of a shelf; made of numbers and fixed words only."""
    count = -(-len(_cards(shelf, side)) // PAGE_ROWS)
    return [f"{shelf.anchor}-{side}-{number + 1}.html" for number in range(count)]


def _pages(shelf: Shelf, run: str, label: str) -> Iterator[tuple[str, str]]:
    """Name and text of each page of a shelf."""
    for side in SIDES:
        cards, names = _cards(shelf, side), _names(shelf, side)
        for number, name in enumerate(names):
            parts = {
                "title": f"{shelf.name}: {side} rows",
                "label": label,
                "run": run,
                "index": f"{INDEX}#{shelf.anchor}",
                "names": names,
                "number": number,
                "first": number * PAGE_ROWS + 1,
                "shown": len(cards),
                "cards": cards[number * PAGE_ROWS : (number + 1) * PAGE_ROWS],
            }
            yield name, render("page.more.html", parts)
