"""Task weights are checked name by name and number by number."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from raycurate.errors import UserError
from raycurate.training.weights import read_weights, weights_of


def test_weights_come_in_task_order():
    """One weight per task, in the order of the tasks; a known task without rows may be named."""
    found = weights_of(["b", "a"], {"a": 2, "b": 0.5, "c": 1.0}, known=["a", "b", "c"])
    np.testing.assert_array_equal(found, [0.5, 2.0])
    np.testing.assert_array_equal(weights_of(["x", "y"], None), [1.0, 1.0])


def test_unknown_task_is_an_error_with_the_nearest_name():
    """A misspelt task names the known ones and the one that was meant."""
    with pytest.raises(
        UserError, match=r"unknown task in the weights 'vqaa'. Did you mean 'vqa'\? Available: ocr, vqa"
    ):
        weights_of(["vqa", "ocr"], {"vqaa": 1.0, "ocr": 1.0})


def test_missing_task_is_an_error():
    """A task of the rows without weight is named together with the known tasks."""
    with pytest.raises(UserError, match=r"no weight for the task vqa.*Known tasks: ocr, vqa"):
        weights_of(["vqa", "ocr"], {"ocr": 1.0})


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", None, True])
def test_weight_must_be_finite_and_positive(value):
    """Anything but a finite number above 0 is refused with the task's name."""
    with pytest.raises(UserError, match="'vqa' is .*finite number above 0.*select --where"):
        weights_of(["vqa"], {"vqa": value})


def test_weights_beside_what_they_were_made_of(tmp_path):
    """The weights of a record are read and checked; a task may still be called `weights`."""
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"weights": {"a": 1, "b": 2.5}, "formula": "lambda = 1", "temperature": 0.5}))
    assert read_weights(str(path)) == {"a": 1.0, "b": 2.5}
    path.write_text(json.dumps({"weights": {"a": -1}, "formula": "lambda = 1"}))
    with pytest.raises(UserError, match="the weight of 'a' is -1"):
        read_weights(str(path))
    path.write_text(json.dumps({"weights": 2.0, "a": 1.0}))
    assert read_weights(str(path)) == {"weights": 2.0, "a": 1.0}


def test_file_is_read_and_checked(tmp_path):
    """A JSON file gives the mapping; what is no JSON object of numbers is refused."""
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"a": 1, "b": 2.5}))
    assert read_weights(str(path)) == {"a": 1.0, "b": 2.5}
    for text, told in (("[1]", "mapping"), ("{", "not JSON"), ("{}", "mapping")):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            read_weights(str(path))
    with pytest.raises(UserError, match="cannot read"):
        read_weights(str(tmp_path / "none.json"))
