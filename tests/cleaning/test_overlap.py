"""What is found of a test set, against a loop over all pairs of rows; and what is not."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycurate.cleaning.overlap import COMMON_ROWS, TELLING_GRAMS, TestPrints
from raycurate.cleaning.pictures import differing_bits, print_picture, shades_agree
from raycurate.cleaning.words import grams, text_hash
from raycurate.stages.cleaning.prints import PRINTS_SCHEMA, _pictures, _words
from tests.cleaning.pictures_cases import cropped, reencoded, scene

Row = tuple[str, str, tuple[int, ...]]
SETTINGS = {"distance": 8, "overlap": 0.6, "common": 0.01}


@lru_cache
def picture(number: int):
    """Scenes 0 to 4; 5 and up are crops or encodings of them."""
    base = scene(number % 5)
    changed = [base, reencoded(base), cropped(base, 0.05, 0.0, 1.0), base.rotate(90)][number // 5]
    return print_picture(changed)


def prints_of(rows: list[Row]) -> pa.Table:
    made = []
    for number, (question, answer, images) in enumerate(rows):
        messages = [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]
        own = {"key": f"{number:03d}", "source_id": f"row {number}"}
        made.append({**own, **_words(messages), **_pictures([picture(each) for each in images])})
    return pa.Table.from_pylist(made, schema=PRINTS_SCHEMA)


def naive(rows: list[Row], test: list[Row]) -> list[tuple[str | None, int]]:
    """Reason and test row of each row, pair by pair."""

    def words(row: Row) -> set[int]:
        return set(grams([row[0]]).tolist()) | set(grams([row[1]]).tolist())

    def whole(row: Row) -> tuple:
        return text_hash([{"role": "u", "text": row[0]}, {"role": "a", "text": row[1]}]), pixels(row)

    def pixels(row: Row) -> list[bytes]:
        return [picture(each).pixels for each in row[2]]

    def near(a, b) -> int:
        d = min(int(differing_bits(a.hash_V[:1], b.hash_V).min()), int(differing_bits(a.hash_V, b.hash_V[:1]).min()))
        return d if shades_agree(a.shade_S[None], b.shade_S[None])[0, 0] else 65

    counts: dict[int, int] = {}
    for row in test:
        for each in words(row):
            counts[each] = counts.get(each, 0) + 1
    telling = [{g for g in words(row) if counts[g] <= COMMON_ROWS} for row in test]
    found: list[tuple[str | None, int]] = []
    for row in rows:
        same = [t for t, other in enumerate(test) if whole(other) == whole(row)]
        shown = [t for p in pixels(row) for t, other in enumerate(test) if p in pixels(other)]
        pairs = [(near(picture(i), picture(j)), t) for t, o in enumerate(test) for j in o[2] for i in row[2]]
        close = min(pairs, default=(65, -1))
        shares = [(-len(words(row) & own) / len(own), t) for t, own in enumerate(telling) if len(own) >= TELLING_GRAMS]
        most = min(shares, default=(0.0, -1))
        if same:
            found.append(("test_row", same[0]))
        elif shown:
            found.append(("test_image", shown[0]))
        elif close[0] <= SETTINGS["distance"]:
            found.append(("test_near_image", close[1]))
        elif -most[0] >= SETTINGS["overlap"]:
            found.append(("test_text", most[1]))
        else:
            found.append((None, -1))
    return found


TEXTS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join)
ROWS = st.lists(
    st.tuples(TEXTS, st.sampled_from(["yes", "no"]), st.tuples() | st.tuples(st.integers(0, 19))), max_size=9
)


@settings(max_examples=30)
@given(ROWS, ROWS)
def test_as_a_loop_over_pairs(rows, test):
    """Reasons and test rows; of several that are as near, any."""
    held = TestPrints(prints_of(test), **SETTINGS)
    made = held.find(prints_of(rows))
    expected = naive(rows, test)
    assert made.reason_N == [reason for reason, _ in expected]
    exact = [n for n, (reason, _) in enumerate(expected) if reason != "test_near_image"]
    assert made.test_N[exact].tolist() == [expected[n][1] for n in exact]
    assert (np.isnan(made.similarity_N) == (made.test_N < 0)).all()


QUESTION = "what is the small brown dog on the left side of the wooden table doing with the red ball"
ANSWER = "it is chewing on it while the cat looks away"
TEST: list[Row] = [
    (QUESTION, ANSWER, (0,)),
    ("how many windows does the tall grey house behind the old oak tree have", "seven of them", (1,)),
    *[(f"is there a thing number {n} in the picture", "yes", (2,)) for n in range(8)],
]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((QUESTION.upper(), ANSWER, (0,)), "test_row"),
        (("what else", "nothing", (0,)), "test_image"),
        (("what else", "nothing", (5,)), "test_near_image"),
        (("what else", "nothing", (10,)), "test_near_image"),
        (("what else", "nothing", (15,)), None),
        ((QUESTION.replace("small", "little").replace("wooden", "round"), ANSWER, (3,)), "test_text"),
        ((QUESTION + " and why", ANSWER, ()), "test_text"),
        (("is there a thing number 77 in the picture", "yes", (3,)), None),
        (("how many doors does the low green hut have", "two", (3,)), None),
    ],
)
def test_what_is_found_and_what_is_not(row, reason):
    """The row in capitals, its picture, encoded anew, cropped, turned; two words changed; a template of many rows."""
    found = TestPrints(prints_of(TEST), distance=8, overlap=0.6, common=0.01).find(prints_of([row]))
    assert found.reason_N == [reason]


def test_an_empty_test_set_finds_nothing():
    found = TestPrints(prints_of([]), **SETTINGS).find(prints_of(TEST))
    assert found.reason_N == [None] * len(TEST)
