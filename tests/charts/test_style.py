"""The style sheet of the charts: what is to be read or seen stands out from what lies behind it."""

from __future__ import annotations

import re

import pytest

from raycurate.charts.files import chart_style

LIGHT, DARK = (dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in chart_style().split("@media"))


def _contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    first, second = sorted((_luminance(each) for each in (one, other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


def _luminance(color: str) -> float:
    parts = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_and_marks_can_be_seen(colors):
    """4.5:1 for text on paper and in every shade of a heat map, 3:1 for marks and for the outline of dots."""
    assert min(_contrast(colors[name], colors["paper"]) for name in ("ink", "quiet")) >= 4.5
    assert min(_contrast(colors[name], colors["paper"]) for name in ("mark", "low", "pale")) >= 3
    assert re.search(r"\.dot \{[^}]*stroke: var\(--quiet\)", chart_style())
    for shade in range(5):
        text = colors["ink"] if shade < 3 else colors[f"on{shade}"]
        for behind in (f"h{shade}", f"m{shade}")[: 1 if shade == 0 else 2]:
            assert _contrast(text, colors[behind]) >= 4.5, behind
