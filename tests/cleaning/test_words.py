"""Texts are the same whatever their case, spaces and Unicode form, and their grams are those of a loop."""

from __future__ import annotations

import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raycurate.cleaning.words import asked_and_answered, grams, plain, text_hash

LETTERS = st.text(alphabet="abcdeéåüçñАбвΣσ 字?!.", max_size=40)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(texts)]


@given(question=LETTERS, answer=LETTERS)
def test_case_spaces_form_and_marks_make_no_difference(question, answer):
    """Upper case, composed or not, other white space, another place of the image: one hash and the same grams."""
    spaced = "<image>\n  " + unicodedata.normalize("NFD", question.upper()).replace(" ", " \t\n ") + " "
    other = turns(spaced, unicodedata.normalize("NFC", answer))
    assert text_hash(other) == text_hash(turns(question, answer))
    np.testing.assert_array_equal(grams([spaced]), grams([question]))


def test_other_words_roles_and_turns_make_a_difference():
    """What is said by whom, and where a turn ends."""
    hashes = [turns("a b", "c"), turns("a", "b c"), turns("a b", "d"), turns("a b"), turns("a b.", "c")]
    swapped = [{"role": "assistant", "text": "a b"}, {"role": "user", "text": "c"}]
    assert len({text_hash(each) for each in (*hashes, swapped)}) == 6


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=8), max_size=3), st.integers(1, 4))
def test_grams_are_those_of_a_loop(texts, words):
    """As many as there are different runs of words; equal texts have equal ones."""
    naive = set()
    for text in texts:
        runs = [tuple(text[i : i + words]) for i in range(len(text) - words + 1)]
        naive |= set(runs or ([tuple(text)] if text else []))
    made = grams([" ".join(text) for text in texts], words)
    assert len(made) == len(naive)
    assert (np.diff(made.astype(object)) > 0).all()
    both = np.union1d(made, grams([" ".join(run) for run in naive], words))
    np.testing.assert_array_equal(both, made)


def test_questions_and_answers_are_told_apart():
    """A system turn is part of what is asked."""
    told = [{"role": "system", "text": "s"}, *turns("q", "a", "r", "b")]
    assert asked_and_answered(told) == (["s", "q", "r"], ["a", "b"])
    assert plain("<image>\nWhat  IS\tthis?<image>") == "what is this?"
