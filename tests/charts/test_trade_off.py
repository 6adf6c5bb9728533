"""Cost against score: the front is what nothing beats, names do not lie on each other, files stand alone."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from raycurate.charts.files import svg_file
from raycurate.charts.marks import wide_of
from raycurate.charts.trade_off import Offer, pareto_front, trade_off

REAL = st.floats(-1e6, 1e6)
SVG = "{http://www.w3.org/2000/svg}"


@given(st.lists(st.tuples(REAL, REAL), max_size=30))
def test_the_front_is_what_no_other_beats(points):
    """Of equal points one is on it; every point off it has one that costs no more and gives no less."""
    front = pareto_front(points)
    assert [points[i] for i in front] == sorted({points[i] for i in front})
    for place, (x, y) in enumerate(points):
        better = [i for i, (a, b) in enumerate(points) if a <= x and b >= y and (a, b) != (x, y)]
        assert (not better) == ((x, y) in [points[i] for i in front]), place


@given(st.lists(st.tuples(REAL, REAL, st.text("xyz<&'", min_size=1, max_size=40)), min_size=1, max_size=12))
def test_marks_and_names_lie_inside_and_names_not_on_each_other(values):
    """Whatever the numbers and names; both layouts."""
    for part in trade_off([Offer(n, x, y, y, y + 1) for x, y, n in values], "l", ("x", "y")).split('"narrow"'):
        assert "nan" not in part
        width = float(re.search(r'viewBox="0 0 (\d+)', part)[1])
        assert all(0 <= float(x) <= width for x in re.findall(r'cx="([-\d.]+)"', part))
        assert part.count("<circle") == len(values)


def test_the_front_is_strong_and_named_first():
    """A cheap poor, a dear rich one and one that both costs and gives between; one that is beaten is pale."""
    offers = [
        Offer("cheap", 1, 50),
        Offer("dear", 9, 90, 85, 95),
        Offer("beaten", 5, 40),
        Offer("beaten too", 5.001, 40),
    ]
    chart = wide_of(trade_off(offers, "l", ("cost", "score")))
    assert re.findall(r'circle class="(\w+)"', chart) == ["mark", "mark", "pale", "pale"]
    assert "dear: 90 for 9, 85 to 95" in chart
    names = re.findall(r'<text text-anchor="(?:start|end)" x="[\d.]+" y="[\d.]+">([a-z ]+)</text>', chart)
    assert [name for name in names if name in {each.name for each in offers}][:3] == ["cheap", "dear", "beaten"]
    assert trade_off([], "l", ("x", "y")) == ""


def test_a_file_stands_alone():
    """XML with its style, of one chart; names that want to be code are text."""
    chart = trade_off([Offer("</svg><script>1</script>", 1, 2)], 'a "label" & more', ("x", "y"))
    root = ElementTree.fromstring(svg_file(chart))
    assert root.tag == f"{SVG}svg"
    assert [child.tag for child in root][:2] == [f"{SVG}style", f"{SVG}rect"]
    assert not list(root.iter(f"{SVG}script"))
    assert root.get("aria-label") == 'a "label" & more'
