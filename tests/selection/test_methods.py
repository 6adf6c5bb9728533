from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection import METHODS, REASONS, Selector, build_selector, get_method
from raycurate.selection.methods.by_score import ByScore, number_column
from raycurate.selection.methods.random import Random


def test_every_method_is_a_selector_with_defaults() -> None:
    """Each name in the list builds without options."""
    for name in METHODS:
        assert isinstance(build_selector(name), Selector)


def test_an_unknown_name_gets_the_nearest() -> None:
    """The message names the nearest method and all others."""
    with pytest.raises(UserError, match="unknown method 'coincdie'. Did you mean 'coincide'") as error:
        get_method("coincdie")
    assert "Available: balanced, clip_score, coincide" in str(error.value)


def test_an_unknown_option_gets_the_nearest() -> None:
    """A misspelt option is not ignored."""
    with pytest.raises(UserError, match="unknown option of method 'coincide' 'temprature'. Did you mean 'temperature'"):
        build_selector("coincide", {"temprature": 0.1})
    with pytest.raises(UserError, match="Available: keep. Methods that have it: balanced, coincide"):
        build_selector("el2n", {"temperature": 0.1})
    with pytest.raises(UserError, match="option 'density' of method 'coincide' is 'papper'"):
        build_selector("coincide", {"density": "papper"})
    with pytest.raises(UserError, match="option 'temperature' of method 'coincide' is 'hot'"):
        build_selector("coincide", {"temperature": "hot"})


def test_a_method_of_the_user_is_loaded_by_its_path() -> None:
    """`package.module:object` is imported."""
    assert isinstance(build_selector("raycurate.selection.methods.random:Random"), Random)


@pytest.mark.parametrize("name", ["no_such_package:Thing", "raycurate.selection.methods.random:Nothing", ":x", "math:"])
def test_a_path_that_cannot_be_imported_is_a_user_error(name: str) -> None:
    """The message says what to give."""
    with pytest.raises(UserError, match="give package.module:object"):
        get_method(name)


def test_an_object_that_is_no_selector_is_a_user_error() -> None:
    """A number, a class without any of its parts, and a method by score that does not say what it reads."""
    with pytest.raises(UserError, match="it must be a class or a function"):
        get_method("math:pi")
    with pytest.raises(UserError, match="which lacks needs, columns, plan, order, decide"):
        build_selector("collections:OrderedDict")
    with pytest.raises(UserError, match="made a Nameless, which lacks needs, columns$"):
        build_selector(f"{__name__}:Nameless")


class Nameless(ByScore):
    """A method that names neither its nouns nor its columns."""

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Return a column, [N]."""
        return number_column(rows, "loss")


def test_reasons_say_whether_the_row_was_kept() -> None:
    """Every reason has a text that starts with the outcome; rows that another stage marked were dropped by that."""
    assert all(text.split(":")[0] in ("kept", "dropped", "marked") for text in REASONS.values())
