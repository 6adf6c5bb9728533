"""Targeted selection through `rank` and `select`: slow loops, any division of the work, and what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycurate.config import RankConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.pipeline import steps_of
from raycurate.recipe import Recipe
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.rank import rank
from raycurate.stages.select import select
from tests.drivers import kill_at_commit
from tests.nouns import read_all, write_features, write_samples
from tests.selection.selection_cases import TaskedCase, sample_keys, tasked_case, unit_features
from tests.selection.test_turns import naive_turns

SHOWN = 14
KEYS, TASKS = sample_keys(SHOWN, 99), [f"bench {i % 3}" for i in range(SHOWN)]
VALIDATION = unit_features(SHOWN, 24, 5, spread=2.0)


def run_of(folder: Path, made: TaskedCase, *, shards: int, lost: int = 2) -> Run:
    """Rows to choose from, the last ones without features, and validation rows in two shards."""
    run, count = Run(str(folder)), len(made.tasks) - lost
    write_samples(run, made.case.keys, made.tasks, shards=shards)
    features = made.case.features
    write_features(run, made.case.keys[:count], features[:count], shards=shards, label="weighted_token")
    write_samples(run, KEYS, TASKS, shards=2, label="val")
    write_features(run, KEYS, VALIDATION, shards=2, label="val-weighted_token", samples="val")
    return run


def selected(run: Run, ratio: float = 0.3, **settings) -> set[str]:
    """The keys that are kept."""
    select(run, make_config(SelectConfig, {"method": "targeted", "ratio": ratio, **settings}))
    table = read_all(run.noun("selection", settings.get("label", "main")))
    return set(table.filter(table["kept"])["key"].to_pylist())


def expected(made: TaskedCase, ratio: float, lost: int = 2) -> set[str]:
    """Cosines, maxima and turns by slow loops."""
    rows = sorted(range(len(made.tasks) - lost), key=lambda i: made.case.keys[i])
    wide, other = made.case.features[rows].astype(np.float64), VALIDATION.astype(np.float64)
    cosine = (wide / np.linalg.norm(wide, axis=1)[:, None]) @ (other / np.linalg.norm(other, axis=1)[:, None]).T
    columns = [[i for i in range(SHOWN) if TASKS[i] == task] for task in sorted(set(TASKS))]
    similarity = np.stack([cosine[:, own].max(axis=1) for own in columns], axis=1).round(12)
    order = naive_turns(similarity)
    return {made.case.keys[rows[i]] for i in order[: round(ratio * len(made.tasks))]}


def test_the_rows_of_slow_loops_for_any_division_of_the_work(ray_cluster, tmp_path):
    """One shard or five, one task or three at once; the same inside the envelope; the order is made once."""
    made, within = tasked_case(9, rows=160), None
    for shards, at_once in ((1, 1), (5, 2), (3, 3)):
        run = run_of(tmp_path / str(shards), made, shards=shards)
        assert selected(run, max_tasks=at_once) == expected(made, 0.3), shards
        order = run.noun("ranking", "by-targeted").manifest()
        assert selected(run, 0.1, label="small") == expected(made, 0.1)
        inside = selected(run, envelope=True, label="within")
        within = within or inside
        assert inside == within
        assert run.noun("ranking", "by-targeted").manifest() == order
    assert run.noun("selection").manifest().metrics["reasons"]["no_features"] == 2
    small = {"order": "targeted", "features": "weighted_token", "label": "small", "memory_gb": 4.2e-5}
    with pytest.raises(UserError, match="holds 158 rows for 3 targets in one task.*memory_gb=4.2e-05"):
        rank(run, make_config(RankConfig, small))


def by_influence(made: TaskedCase, method: str) -> set[str]:
    """The rows of LESS and of ICONS by slow loops over float64 means."""
    rows = sorted(range(len(made.tasks) - 2), key=lambda i: made.case.keys[i])
    wide, other = made.case.features[rows].astype(np.float64), VALIDATION.astype(np.float64)
    columns = [[i for i in range(SHOWN) if TASKS[i] == task] for task in sorted(set(TASKS))]
    influence = np.array([[np.mean([row @ other[v] for v in own]) for own in columns] for row in wide])
    best = [max(row) for row in influence]
    if method == "less":
        order = sorted(range(len(rows)), key=lambda i: (-best[i], i))
    else:
        least = [sorted(column, reverse=True)[round(0.2 * len(rows)) - 1] for column in influence.T]
        votes = [sum(value >= bound for value, bound in zip(row, least, strict=True)) for row in influence]
        order = sorted(range(len(rows)), key=lambda i: (-votes[i], -best[i], i))
    return {made.case.keys[rows[i]] for i in order[: round(0.3 * len(made.tasks))]}


@pytest.mark.parametrize("method", ["less", "icons"])
def test_influence_on_validation_rows_for_any_division_of_the_work(ray_cluster, tmp_path, method):
    """Means over each target's gradients; one shard or three, one task or two at once; the same in an envelope."""
    made, within = tasked_case(9, rows=160), None
    for shards, at_once in ((1, 1), (3, 2)):
        run, count = run_of(tmp_path / str(shards), made, shards=shards), len(made.tasks) - 2
        features = made.case.features
        write_features(run, made.case.keys[:count], features[:count], shards=shards, label="gradients")
        with pytest.raises(UserError, match="raycurate score .* --scores gradients --set also=.val."):
            selected(run, method=method)
        write_features(run, KEYS, VALIDATION, shards=2, label="val-gradients", samples="val")
        assert selected(run, method=method, max_tasks=at_once) == by_influence(made, method)
        inside = selected(run, method=method, envelope=True, label="within")
        within = within or inside
        assert inside == within


def test_without_validation_rows_it_says_how_to_give_them(ray_cluster, tmp_path):
    """First their samples, then their scores, then scores of the same model."""
    made = tasked_case(2, rows=20)
    run = Run(str(tmp_path / "run"))
    write_samples(run, made.case.keys, made.tasks)
    with pytest.raises(UserError, match="raycurate score .* --scores weighted_token`"):
        selected(run)
    write_features(run, made.case.keys, made.case.features, label="weighted_token")
    told = "needs validation rows.*raycurate ingest FILE .* --label val`, then `raycurate score .* --set also=.val.`"
    with pytest.raises(UserError, match=told):
        selected(run)
    with pytest.raises(UserError, match="no 'samples/bench'"):
        selected(run, options={"targets": "bench"})
    write_samples(run, KEYS, TASKS, label="val")
    with pytest.raises(UserError, match="have no 'features/val-weighted_token'. Run `raycurate score"):
        selected(run)
    noun = write_features(run, KEYS, VALIDATION, label="val-weighted_token", samples="val")
    description = {**noun.manifest().description}
    noun.clear()
    noun.begin({**description, "inputs": {**description["inputs"], "model": "another"}})
    noun.finish()
    with pytest.raises(UserError, match="are of another model; run"):
        selected(run)


def test_other_validation_rows_make_the_order_stale(ray_cluster, tmp_path):
    """The same label with other rows: ranked and selected anew."""
    made = tasked_case(3, rows=60)
    run = run_of(tmp_path / "run", made, shards=1)
    before = selected(run)
    write_features(run, KEYS, -VALIDATION, shards=2, label="val-weighted_token", samples="val")
    assert selected(run) != before


def test_a_recipe_ingests_validation_rows_before_it_scores_them():
    """Only where the scores are of these rows too."""
    values = {
        "run": "run",
        "ingest": {"source": "rows.json"},
        "score": {"scores": ["weighted_token"], "also": ["val"]},
        "validation": {"source": "test.json", "label": "val"},
        "select": {"method": "targeted"},
    }
    assert [name for name, _, _ in steps_of(make_config(Recipe, values))] == ["ingest", "validation", "score", "select"]
    values["score"] = {"scores": ["weighted_token"]}
    assert [name for name, _, _ in steps_of(make_config(Recipe, values))] == ["ingest", "score", "select", "validation"]


@pytest.mark.slow
def test_kills_in_ranking_and_selecting_do_not_change_the_answer(ray_cluster, tmp_path):
    """kill -9 while rows are compared with the targets, and while shards are decided: the rows of a calm run."""
    made = tasked_case(11, rows=120, clusters=12)
    calm = selected(run_of(tmp_path / "calm", made, shards=6))
    run = run_of(tmp_path / "struck", made, shards=6)
    ranking, selection = run.noun("ranking", "by-targeted"), run.noun("selection")
    command = ("select", run.uri, "--method", "targeted", "--ratio", "0.3")
    kill_at_commit("*/work/similar/*.json", 2, *command)
    assert ranking.manifest() is None
    kill_at_commit("*/selection/*/part-*", 2, *command)
    assert (len(selection.records()), selection.manifest()) == (2, None)
    assert selected(run) == calm
