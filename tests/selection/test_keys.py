from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection.keys import key_array, key_hashes, key_word
from tests.selection.selection_cases import sample_keys


def test_hashes_are_those_of_blake2b() -> None:
    """The draw can be reproduced by anybody from its description."""
    expected = int.from_bytes(hashlib.blake2b(b"abc-0", digest_size=8, key=b"7", person=b"draw").digest(), "big")
    assert key_hashes(np.array([b"abc-0"]), seed=7, purpose="draw").tolist() == [expected]
    assert key_hashes(np.array([], dtype="S1"), seed=7, purpose="draw").shape == (0,)


def test_seeds_and_purposes_are_independent() -> None:
    """Another seed, or another use of the same seed, is another draw."""
    keys = np.array(sample_keys(2000), dtype=np.bytes_)
    base = key_hashes(keys, seed=1, purpose="draw")
    for other in (key_hashes(keys, seed=2, purpose="draw"), key_hashes(keys, seed=1, purpose="else")):
        assert abs(np.corrcoef(base / 2.0**64, other / 2.0**64)[0, 1]) < 0.1
    assert abs((base / 2.0**64).mean() - 0.5) < 0.03


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=20))
def test_key_words_have_the_order_of_the_strings(texts: list[str]) -> None:
    """Comparing words from the first on is comparing the UTF-8 strings."""
    keys = key_array(pa.array(texts))
    words = list(zip(*(key_word(keys, word).tolist() for word in range(10)), strict=True))
    by_word = sorted(range(len(texts)), key=lambda row: (words[row], row))
    by_text = sorted(range(len(texts)), key=lambda row: (texts[row].encode(), row))
    assert by_word == by_text
