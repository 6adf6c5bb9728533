from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.evaluation import METRICS
from raycurate.evaluation.boxes import Box, parse_box

IOU = METRICS["iou"]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1, 0.2, 0.5, 0.6]", (0.1, 0.2, 0.5, 0.6)),
        ("It is at [1,2,30,40], not at [5,6,7,8].", (1, 2, 30, 40)),
        ("[[1, 2, 3, 4]]", (1, 2, 3, 4)),
        ("[-1, -2, 3, 4e0]", (-1, -2, 3, 4)),
        ("[cat] [1, 2, 3, 4]", None),
        ("[1, 2, 3]", None),
        ("[1, 2, 3, 4, 5]", None),
        ("1, 2, 3, 4", None),
        ("[1, 2, 3, 4", None),
        ("[a, b, c, d]", None),
        ("[nan, 0, 1, 1]", None),
        ("[0, 0, inf, 1]", None),
        ("[0, 0, 1e308, 1e308]", None),
        ("[3, 4, 1, 2]", None),
        ("[1, 1, 1, 2]", None),
        ("[]", None),
        ("", None),
        ("[" * 10_000, None),
    ],
)
def test_parse_box(text: str, box: Box | None) -> None:
    """The first [...] or nothing; what is no box with an area is None and never an exception."""
    assert parse_box(text) == box


def test_an_overlap_of_one_half_is_a_miss() -> None:
    """Strictly above 0.5, also where the decimals round the other way; the overlap still counts in the mean."""
    pairs = [("[0, 0, 1, 0.5]", "[0, 0, 1, 1]"), ("[0.1, 0.1, 0.3, 0.2]", "[0.1, 0.1, 0.3, 0.3]")]
    scores = IOU.compute([pair[0] for pair in pairs], [[pair[1]] for pair in pairs])
    assert scores.value == 0
    assert scores.values["mean_iou"] == pytest.approx(0.5)
    assert IOU.compute(["[0, 0, 1, 0.501]"], [["[0, 0, 1, 1]"]]).value == 1


def test_text_without_a_box_is_a_miss_and_counted() -> None:
    """Unparsable, empty and disjoint predictions have IoU 0."""
    right = ["[0, 0, 1, 1]"]
    scores = IOU.compute(["a cat", "", "[2, 2, 3, 3]", "[0, 0, 1, 1]"], [right] * 4)
    assert scores.values == {"iou_at_0.5": 0.25, "mean_iou": 0.25, "parsed": 0.5}
    assert scores.rows["iou_at_0.5"] == [0, 0, 0, 1]


def test_the_best_reference_counts() -> None:
    """Several right boxes."""
    assert IOU.compute(["[0, 0, 1, 1]"], [["[5, 5, 6, 6]", "[0, 0, 1, 1]"]]).values["mean_iou"] == 1


def test_a_reference_without_a_box_is_a_user_error() -> None:
    """The row and its text are named."""
    with pytest.raises(UserError, match="reference of row 1 is 'left'; it must hold a box"):
        IOU.compute(["[0, 0, 1, 1]"] * 2, [["[0, 0, 1, 1]"], ["left"]])


def boxes() -> st.SearchStrategy[Box]:
    corner, size = st.integers(-50, 50), st.integers(1, 60)
    return st.tuples(corner, corner, size, size).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(one=boxes(), two=boxes())
def test_iou_against_the_formula(one: Box, two: Box) -> None:
    """Intersection over union, symmetric, at most 1."""
    width, height = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    shared = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    expected = shared / (sum(areas) - shared)
    scores = IOU.compute([str(list(one)), str(list(two))], [[str(list(two))], [str(list(one))]])
    assert scores.rows["mean_iou"] == pytest.approx([expected, expected], abs=1e-12)
    assert scores.value == float(2 * shared > sum(areas) - shared)


@given(text=st.text(alphabet="[]0123456789.,-e nif", max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    """Whatever the model says, the score lies in 0..1."""
    assert 0 <= IOU.compute([text], [["[0, 0, 1, 1]"]]).values["mean_iou"] <= 1
