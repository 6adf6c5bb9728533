"""The methods of the COINCIDE paper through `select` against slow loops; what is missing is named with its command."""

from __future__ import annotations

import numpy as np
import pytest

from raycurate.config import RankConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.shards import map_here
from raycurate.stages.rank import rank
from raycurate.stages.select import select
from tests.nouns import read_all, write_clusters, write_features, write_samples, write_scores
from tests.selection import naive_baselines as naive
from tests.selection.selection_cases import clustered_case

ROWS, SHARDS = 90, 3
RATIO = 0.3
TARGET = round(RATIO * ROWS)


@pytest.fixture(scope="module")
def case():
    """Rows in five clusters; the last row has no scores."""
    return clustered_case(21, rows=ROWS)


@pytest.fixture(scope="module")
def scores(case):
    """One number of each kind per row but the last."""
    random = np.random.default_rng(5)
    columns = {
        "loss": random.uniform(0, 4, ROWS),
        "el2n": random.choice([0.1, 0.7, 1.2], ROWS),
        "aum": random.uniform(-1, 1, ROWS),
    }
    clip = random.uniform(0, 0.4, ROWS)
    return columns, clip, [i % 9 != 0 for i in range(ROWS)], random.normal(size=ROWS)


@pytest.fixture(scope="module")
def run(tmp_path_factory, case, scores):
    """A run with every noun that the methods read, in three shards."""
    run = Run(str(tmp_path_factory.mktemp("methods") / "run"))
    write_samples(run, case.keys, [f"t{i % 3}" for i in range(ROWS)], shards=SHARDS)
    for label in ("main", "last_token", "mean_token", "clip"):
        write_features(run, case.keys, case.features, shards=SHARDS, block_dim=case.block_dim, label=label)
        if label != "clip":
            write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=SHARDS, label=label)
    columns, clip, has_image, difficulty = scores
    most = slice(0, ROWS - 1)
    keys = case.keys[most]
    write_scores(run, "token_losses", {"key": keys, **{n: v[most] for n, v in columns.items()}}, shards=SHARDS)
    shown = [value if image else None for value, image in zip(clip[most], has_image[most], strict=True)]
    write_scores(run, "clip", {"key": keys, "clip_score": shown, "has_image": has_image[most]}, shards=SHARDS)
    write_scores(run, "given", {"key": keys, "difficulty": difficulty[most]}, shards=SHARDS)
    return run


def kept_by(run: Run, method: str, **settings) -> set[str]:
    """The keys that a method keeps."""
    label = f"{method}-{len(settings)}"
    manifest = select(run, make_config(SelectConfig, {"method": method, "ratio": RATIO, "label": label, **settings}))
    table = read_all(run.noun("selection", label))
    assert manifest.rows_out == ROWS
    assert manifest.metrics["kept"] == manifest.metrics["target"]
    return set(table.filter(table["kept"])["key"].to_pylist())


def semdedup(case) -> set[str]:
    """The slow form over all clusters."""
    similarity = np.einsum("nd,nd->n", case.features.astype(np.float64), case.centroids[case.labels])
    values: dict[str, float] = {}
    for cluster in np.unique(case.labels):
        at = np.flatnonzero(case.labels == cluster)
        own = [case.keys[i] for i in at]
        values |= naive.semdedup_values(case.features[at], own, similarity[at].astype(np.float32))
    return naive.window([values[key] for key in case.keys], case.keys, TARGET, "low")


def test_each_method_keeps_the_rows_of_its_formula(ray_cluster, run, case, scores):
    """All seven over three shards, the ones that rank groups first included, with the exact budget."""
    columns, clip, has_image, difficulty = scores
    keys, features = case.keys[: ROWS - 1], case.features[: ROWS - 1]
    middle = {name: naive.window(columns[name][:-1].tolist(), keys, TARGET, "middle") for name in ("loss", "el2n")}
    assert kept_by(run, "perplexity") == middle["loss"]
    assert kept_by(run, "el2n") == middle["el2n"]
    shown = [(value, key) for value, image, key in zip(clip, has_image, keys, strict=False) if image]
    best = naive.window([v for v, _ in shown], [k for _, k in shown], TARGET, "high")
    assert kept_by(run, "clip_score") == best
    similarity = np.einsum("nd,nd->n", case.features.astype(np.float64), case.centroids[case.labels])
    assert kept_by(run, "self_sup") == naive.window((-similarity.astype(np.float32)).tolist(), case.keys, TARGET, "low")
    assert kept_by(run, "semdedup") == semdedup(case)
    order = naive.d2_order(features, keys, columns["aum"][:-1].tolist(), 5, 0.4, 1.0, 1e-6)
    assert kept_by(run, "d2_pruning") == set(order[:TARGET])
    order = naive.self_filter_order(features, keys, difficulty[:-1].tolist(), 10, 1.0)
    assert kept_by(run, "self_filter", options={"difficulty": "given"}) == set(order[:TARGET])
    assert kept_by(run, "self_filter", options={"difficulty": "loss"}) != set(order[:TARGET])


def test_a_ranking_is_made_once_for_every_ratio(ray_cluster, run):
    """Another ratio reads the order that is there; the budget is exact, up to all rows with a score."""
    for ratio in (0.02, 0.2, 0.5):
        assert len(kept_by(run, "d2_pruning", ratio=ratio)) == round(ratio * ROWS)
    made = run.noun("ranking", "by-d2_pruning").manifest()
    assert kept_by(run, "d2_pruning", ratio=0.2) < kept_by(run, "d2_pruning", ratio=0.5)
    assert run.noun("ranking", "by-d2_pruning").manifest() == made
    whole = select(run, make_config(SelectConfig, {"method": "d2_pruning", "ratio": 1.0, "label": "whole"}))
    assert (whole.metrics["kept"], whole.metrics["reasons"]["no_score"]) == (ROWS - 1, 1)


def test_what_is_missing_is_named_with_its_command(ray_cluster, tmp_path, case):
    """Each method without its inputs says what to type."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, case.keys, ["t"] * ROWS, shards=1)
    commands = {
        "el2n": "raycurate score .* --scores token_losses`",
        "clip_score": "raycurate score .* --scores clip --clip openai/clip-vit-large-patch14-336`",
        "self_sup": "raycurate cluster .* --features mean_token --label mean_token --clusters K`",
        "semdedup": "raycurate cluster .* --features last_token --label last_token --clusters K`",
        "d2_pruning": "raycurate score .* --scores token_losses`",
        "self_filter": "raycurate finetune .* --selection none --score-net clip`",
    }
    for method, command in commands.items():
        with pytest.raises(UserError, match=command):
            select(run, make_config(SelectConfig, {"method": method}))
    write_scores(run, "token_losses", {"key": case.keys, "aum": np.zeros(ROWS)})
    with pytest.raises(UserError, match="raycurate score .* --scores mean_token`"):
        select(run, make_config(SelectConfig, {"method": "d2_pruning"}))


def test_a_dataset_that_no_node_can_hold_is_refused_before_any_work(ray_cluster, run):
    """The message has the rows, the bytes and the bound; methods that order nothing are refused too."""
    settings = {"order": "d2_pruning", "features": "mean_token", "label": "small", "memory_gb": 1e-6}
    with pytest.raises(UserError, match="holds 90 rows of 24 dimensions in one task.*memory_gb=1e-06"):
        rank(run, make_config(RankConfig, settings))
    assert run.noun("ranking", "small").read_json("work.json") is None
    with pytest.raises(UserError, match="method 'random' orders no groups"):
        rank(run, make_config(RankConfig, {"order": "random"}))


def test_fewer_rows_than_asked_for_are_told(run, caplog):
    """Where the others cannot be used; nothing is told where all could."""
    values = {"method": "perplexity", "options": {"keep": "low"}, "label": "fewer"}
    manifest = select(run, make_config(SelectConfig, {**values, "ratio": 1.0}), map_here)
    told = "keeps 89 rows, not the 90 that were asked for: no more can be used"
    assert manifest.metrics["notes"] == [told]
    assert told in caplog.text
    assert "notes" not in select(run, make_config(SelectConfig, {**values, "ratio": 89 / 90}), map_here).metrics
