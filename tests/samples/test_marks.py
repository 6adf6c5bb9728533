"""Marks in text and content blocks are two spellings of one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.samples.marks import join_blocks, split_marks


@given(st.lists(st.sampled_from(["<image>", "\n", " ", "\t", "a", "bc"]), max_size=12).map("".join))
def test_blocks_of_a_text_join_to_it_again(text):
    """No text changes by a round trip, however its marks touch their neighbours."""
    assert join_blocks(split_marks(text)) == text


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([None, "What?"], "<image>\nWhat?"),
        (["What?", None], "What?\n<image>"),
        (["Is ", None, " a cat?"], "Is <image> a cat?"),
        ([None, None, "Compare."], "<image>\n<image>\nCompare."),
        (["a", "b"], "ab"),
        ([None], "<image>"),
    ],
)
def test_plain_blocks_and_their_text(blocks, text):
    """The usual spellings of Hugging Face and LLaVA stand for each other."""
    assert join_blocks(blocks) == text
    if blocks != ["a", "b"]:
        assert split_marks(text) == blocks
