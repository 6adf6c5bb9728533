"""Ratings of a data set choose rows: `select --where` keeps none that does not meet the condition."""

from __future__ import annotations

import json

import pytest

from raycurate.config import IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.shards import map_here
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests.nouns import read_all

ROWS = 90


@pytest.fixture
def run(tmp_path) -> Run:
    """FineVision's columns; every seventh row has no ratings, and the first 50 rows no note."""
    rows = [
        {
            "texts": [{"user": f"Question {i}?", "assistant": f"Answer {i}."}],
            "source": "ai2d" if i % 2 else "chat",
            **({} if i % 7 == 0 else {"relevance_ratings": [i % 5, 5], "relevance_min": i % 5}),
            **({"note": f"n{i % 3}"} if i >= 50 else {}),
            "number": i,
        }
        for i in range(ROWS)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(str(tmp_path / "run"))
    settings = {"source": str(source), "keep": ["note"], "rows_per_shard": 40, "buckets": 16}
    manifest = ingest(run, make_config(IngestConfig, settings))
    assert manifest.metrics["tasks"] == {"ai2d": 45, "chat": 45}
    assert manifest.metrics["tasks_from"] == {"'source'": ROWS}
    kinds = {"note": "text", "number": "number", "relevance_min": "number", "relevance_ratings": "numbers"}
    assert manifest.metrics["kept_columns"] == kinds
    return run


def chosen(run: Run, where: str, **settings) -> tuple[list[int], dict[str, int]]:
    """The numbers of the kept rows, and the rows by reason."""
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 0.2, "where": where, **settings}), map_here)
    extra = {row["key"]: json.loads(row["extra"])["number"] for row in read_all(run.noun("samples")).to_pylist()}
    rows = read_all(run.noun("selection", settings.get("label", "main"))).to_pylist()
    reasons: dict[str, int] = {}
    for row in rows:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return sorted(extra[row["key"]] for row in rows if row["kept"]), reasons


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("relevance_min >= 3", lambda i: i % 7 and i % 5 >= 3),
        ("list_max(relevance_ratings) = 5 and task = 'ai2d'", lambda i: i % 7 and i % 2),
        ("note = 'n1' or number < 20", lambda i: i < 20 or (i >= 50 and i % 3 == 1)),
        ("task <> 'over ü (select random()' and number < 40 and task <> 'now'", lambda i: i < 40),
        ("relevance_min is null or relevance_min = 4", lambda i: i % 7 == 0 or i % 5 == 4),
    ],
)
def test_only_rows_that_meet_the_condition_are_kept(run, where, holds):
    """The budget stays a part of all rows; rows without the number do not meet it, unless it asks for that."""
    good = [i for i in range(ROWS) if holds(i)]
    kept, reasons = chosen(run, where)
    assert len(kept) == round(0.2 * ROWS)
    assert set(kept) <= set(good)
    assert reasons["where"] == ROWS - len(good)


def test_another_condition_makes_another_selection(run):
    """And the same one is done already."""
    first = chosen(run, "number < 30")[0]
    fingerprint = run.noun("selection").manifest().fingerprint
    assert chosen(run, "number < 30")[0] == first
    assert run.noun("selection").manifest().fingerprint == fingerprint
    assert min(chosen(run, "number >= 30")[0]) >= 30


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("relevance >= 3", "relevance_min: double"),
        ("number", "not true or false"),
        ("number > 1; drop table x", "cannot be used"),
        ("count(*) > 3", "one value of many rows"),
        ("row_number() over () > 3", "more than a row's own values"),
        ("task <> 'ü' and random() > 0.5", "more than a row's own values"),
        ("(select max(1) from read_text('/etc/passwd')) > 0", "more than a row's own values"),
        ("exists(from read_text('/etc/passwd'))", "cannot be used"),
        ("number > 1000", "0 rows"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused(run, where, told):
    """Before a row is read, with the columns that there are; files cannot be reached."""
    with pytest.raises(UserError) as error:
        chosen(run, where)
    assert told in str(error.value)
