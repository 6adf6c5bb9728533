"""The job of the proving ground: what it makes, what its recipe asks for, and what chance gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs import proving_ground
from raycurate.errors import UserError
from raycurate.recipe import load_recipe


def test_recipe_is_whole() -> None:
    """The campaign's recipe has three budgets, five seeds, and all rows to compare with."""
    recipe = load_recipe(proving_ground.RECIPE, ["sweep.seeds=[0,1]"])
    sweep = recipe.section("sweep")
    assert sweep.ratios == (0.05, 0.1, 0.2)
    assert sweep.seeds == (0, 1)
    assert {"full", "random", "stratified", "balanced", "coincide"} <= set(sweep.methods)
    assert len(load_recipe(proving_ground.RECIPE, []).section("sweep").seeds) == 5


def test_chance_is_the_commonest_answer(tmp_path: Path) -> None:
    """Counted by task over last answers; a missing file is told."""
    turns = [("a", "yes"), ("a", "no"), ("a", "yes"), ("b", "3")]
    rows = [
        {"task": task, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]}
        for task, answer in turns
    ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    assert proving_ground.majority(tmp_path / "test.json") == {"a": pytest.approx(2 / 3), "b": 1.0}
    with pytest.raises(UserError, match="make"):
        proving_ground.majority(tmp_path / "none.json")


def test_make_tells_what_it_made(tmp_path: Path) -> None:
    """Parts with their rows, faults, and a size that cannot be."""
    pytest.importorskip("fontawesomefree")
    pytest.importorskip("vega_datasets")
    out = str(tmp_path / "set")
    made = CliRunner().invoke(proving_ground.main, ["make", "--rows", "2000", "--out", out])
    assert made.exit_code == 0, made.output
    assert "6,600 rows of 33 tasks" in made.output
    assert (tmp_path / "set" / "test.json").is_file()
    wrong = CliRunner().invoke(proving_ground.main, ["make", "--rows", "1", "--out", str(tmp_path / "other")])
    assert wrong.exit_code != 0
