"""The README's own method, taken from its text and run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.local import select_rows
from tests.selection.selection_cases import sample_keys

README = Path(__file__).parents[2] / "raycurate" / "selection" / "README.md"


@pytest.fixture
def example(tmp_path, monkeypatch) -> str:
    """The method's name, its module written as the README shows it."""
    section = README.read_text(encoding="utf-8").split("## A method of your own")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    path = code.splitlines()[0].removeprefix("# ")
    (name,) = re.findall(r"--method (\S+)", section)
    target = tmp_path / path
    target.parent.mkdir()
    (target.parent / "__init__.py").touch()
    target.write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_the_readmes_method_keeps_the_rows_that_gain_most(example: str) -> None:
    """Ten lines are a selector: the largest gains stay, rows of text alone take no part."""
    random = np.random.default_rng(0)
    loss, blind = random.uniform(0, 4, 50), random.uniform(0, 4, 50)
    text_only = np.arange(50) % 5 == 0
    shown = [None if t else float(b) for b, t in zip(blind, text_only, strict=True)]
    rows = pa.table({"key": sample_keys(50), "loss": loss, "loss_blind": pa.array(shown, pa.float64())})
    ((_, made),) = select_rows(
        build_selector(example), SelectionTables(num_rows=50, num_usable=40), Goal(ratio=0.2), lambda: [rows]
    )
    gain = np.where(text_only, -np.inf, blind - loss)
    assert sorted(np.flatnonzero(made.kept_N)) == sorted(np.argsort(-gain)[:10])
    assert (made.reason_N[text_only] == "no_score").all()
