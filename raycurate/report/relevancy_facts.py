"""What relevancy maps are asked for, and what a page shows of them; plain values, so that a page needs no model."""

from __future__ import annotations

from dataclasses import dataclass, field

from raycurate.report.gallery import Card


@dataclass(frozen=True, slots=True)
class AskedMaps:
    """How many rows, by which model (None: the one of the features), and the seed of the sample."""

    rows: int
    model: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Map:
    """One overlay, and what it shows in words."""

    name: str
    picture: str
    alt: str


@dataclass(frozen=True, slots=True)
class Looked:
    """One row: what the model makes of its answer, and the maps.

    Attributes:
        card: the row.
        probability: of a token of the answer, geometric mean.
        share: of all relevancy that does not stay where the answer is written, the part on the pictures.
        maps: of the layers, then of all together.
    """

    card: Card
    probability: float
    share: float
    maps: list[Map]


@dataclass(frozen=True, slots=True)
class RelevancyMaps:
    """The section of a report.

    Attributes:
        model: that looked.
        seed: of the sample.
        rows: with their maps.
        passed_over: rows without a map, by reason.
        not_followed: rows without a map through the tower, by reason.
    """

    model: str
    seed: int
    rows: list[Looked] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    not_followed: dict[str, int] = field(default_factory=dict)
