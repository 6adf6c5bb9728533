"""Labels: letters of any script, one form of each word, nothing that a file name cannot hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.names import as_label, plain_label
from raycurate.settings import make_config


@pytest.mark.parametrize("label", ["main", "über", "選択", "отбор", "d2_pruning-r0.2=x", "_x", "हिन्दी", "0", "a+b"])
def test_letters_of_any_script_are_labels(label):
    """What a person writes as a word is taken as it is."""
    assert plain_label(label) == label == as_label(label)


@pytest.mark.parametrize(
    "label", ["", ".", "..", "a/b", "a b", "-x", "a\nb", "a:b", "a\\b", "x\u200b", "😀", "x" * 101]
)
def test_what_no_file_should_be_called_is_refused_with_the_form(label):
    """Refused by the config too, before any work."""
    with pytest.raises(UserError, match="letters and digits of any script|fit into the name of a file"):
        plain_label(label)
    with pytest.raises(UserError, match="^label: label "):
        make_config(SelectConfig, {"label": label})


def test_one_word_typed_on_two_systems_is_one_label():
    """The letter and its mark apart (as macOS writes file names) are the composed letter."""
    assert plain_label("u\u0308ber") == plain_label("\u00fcber")
    assert make_config(SelectConfig, {"label": "u\u0308ber"}).label == "\u00fcber"


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_becomes_a_label_of_its_own(one, other):
    """Methods `package.module:Ü` and `package.module:Ö` must not share a folder."""
    assert plain_label(f"{as_label(one)}-s0")
    if one != other:
        assert as_label(one) != as_label(other)
