"""select --keep-selected: rows that were kept stay, the budget counts them, and what cannot be kept is said."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.samples.schema import SAMPLE_SCHEMA
from raycurate.settings import make_config
from raycurate.stages.engine.growth import with_pieces
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import map_here
from raycurate.stages.select import select
from tests.nouns import read_all, write_samples

ROWS, MORE = 60, 40


def _key(number: int) -> str:
    return f"{number:032x}-0"


def _select(run: Run, **settings):
    values = {"method": "stratified", "ratio": 0.2, **settings}
    return select(run, make_config(SelectConfig, values), map_here)


def _grow(run: Run) -> None:
    """Forty rows in a shard behind the others, as an append leaves them."""
    samples = run.noun("samples")
    before = samples.require("ingest")
    part = samples.read_part(0).slice(0, 1).to_pylist()[0]
    rows = [{**part, "key": _key(ROWS + i), "task": "ab"[i % 2]} for i in range(MORE)]
    samples.extend(with_pieces(before.description, [{"rows": MORE}]))
    samples.commit_part(before.shards, pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), rows_in=MORE)
    tasks = Counter(before.metrics["tasks"]) + Counter(row["task"] for row in rows)
    samples.finish(metrics={"tasks": dict(tasks)})


def _kept(run: Run, label: str) -> set[str]:
    rows = read_all(run.noun("selection", label))
    return set(rows.filter(rows["kept"])["key"].to_pylist())


@pytest.fixture
def run(tmp_path):
    """Sixty rows of three tasks in three shards, a fifth of them selected as 'first'."""
    made = Run(str(tmp_path / "run"))
    write_samples(made, [_key(i) for i in range(ROWS)], ["abc"[i % 3] for i in range(ROWS)], shards=3)
    _select(made, label="first")
    return made


def test_a_growing_coreset_keeps_its_rows(run):
    """Rows are appended twice and more is asked for: earlier choices stay, each budget is exact, reasons tell which."""
    _grow(run)
    second = _select(run, label="second", ratio=0.3, keep_selected="first", seed=5)
    assert _kept(run, "first") < _kept(run, "second")
    assert len(_kept(run, "second")) == second.metrics["kept"] == second.metrics["target"] == 30
    assert second.metrics["kept_before"] == second.metrics["reasons"]["kept_before"] == 12
    third = _select(run, label="third", ratio=0.5, keep_selected="second", method="random")
    assert _kept(run, "second") < _kept(run, "third")
    assert (third.metrics["kept"], third.metrics["kept_before"]) == (50, 30)
    without = _select(run, label="without", ratio=0.3, seed=5)
    assert "kept_before" not in without.metrics
    assert not _kept(run, "first") < _kept(run, "without"), "without the option a growing coreset reshuffles"


def test_added_rows_follow_the_method_among_the_others(run):
    """What is added is what the method takes of the other rows alone, task by task in proportion to these."""
    _select(run, label="more", ratio=0.4, keep_selected="first", task_power=1)
    rows = read_all(run.noun("selection", "more"))
    added = rows.filter(pa.compute.and_(rows["kept"], pa.compute.not_equal(rows["reason"], "kept_before")))
    assert Counter(added["task"].to_pylist()) == {"a": 4, "b": 4, "c": 4}
    assert rows.num_rows == ROWS


def test_a_selection_that_keeps_rows_knows_whose(run):
    """It stays current when only its earlier selection is out of date, and is stale when that one is another."""
    _grow(run)
    made = _select(run, label="second", ratio=0.3, keep_selected="first")
    assert required(run.noun("selection", "second")) == made
    assert _select(run, label="second", ratio=0.3, keep_selected="first") == made
    _select(run, label="first", seed=7)
    with pytest.raises(UserError, match="keeps the rows of an earlier 'selection/first', which has changed since"):
        required(run.noun("selection", "second"))


def test_what_cannot_be_kept_is_said(run):
    """Its own rows, more than the budget, none that is there, rows of samples that were made anew."""
    for settings, told in (
        ({"label": "first"}, "cannot keep its own rows"),
        ({"label": "same"}, r"keeps 12 rows, which stay, .* no row can be added\. Give a ratio of 0\.21 or more"),
        ({"label": "other", "keep_selected": "none-there"}, "no finished 'selection/none-there'"),
    ):
        with pytest.raises(UserError, match=told):
            _select(run, **{"keep_selected": "first", **settings})
    write_samples(run, [_key(900 + i) for i in range(ROWS)], ["a"] * ROWS, shards=3)
    with pytest.raises(UserError, match="was not made from 'samples/main' as they are"):
        _select(run, label="other", keep_selected="first", ratio=0.5)


def test_ratios_that_are_advised_can_be_had(run):
    """Rows that stay count: the largest ratio has them and all others, the least adds one to them."""
    where = {"keep_selected": "first", "where": "task = 'a'", "label": "more"}
    with pytest.raises(UserError, match=r"ratio 0\.9 of 60 rows keeps 54, and 40 are marked: 20 remain") as told:
        _select(run, ratio=0.9, **where)
    advised = float(str(told.value).split("Lower the ratio to ")[1].split()[0])
    assert _select(run, ratio=advised, **where).metrics["kept"] == 20
    with pytest.raises(UserError, match="no row can be added") as told:
        _select(run, ratio=0.06, **where)
    advised = float(str(told.value).split("Give a ratio of ")[1].split()[0])
    assert _select(run, ratio=advised, **where).metrics["kept"] == 5
    with pytest.raises(UserError, match="60 are marked: 0 remain. Leave marks aside .*--where"):
        _select(run, ratio=0.9, keep_selected="first", where="task = 'none'", label="more")
