"""Orders of training: every row once, the same rows in every step for any ranks, easy first or all kinds always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.models.adapter import load_processor
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.training_order import order_source
from raycurate.stages.finetune import finetune
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenDataset, TokenSource, epoch_order
from raycurate.training.order import OrderSource, ordered_epoch, ordered_rows
from tests.nouns import write_clusters, write_features, write_scores
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run, write_tokens

GOLDEN = [10, 9, 8, 7, 2, 1, 0, 11, 6, 5, 4, 3]
"""Of eleven rows in groups of four, as finished models were trained."""
VALUES = st.lists(st.sampled_from([0.1, 0.2, 0.5, float("nan")]), min_size=1, max_size=60)
KINDS = st.sampled_from(["curriculum", "interleaved"])


@given(values=VALUES, kind=KINDS, micro=st.integers(1, 3), ranks=st.integers(1, 3), epoch=st.integers(0, 2))
def test_every_row_once_and_the_same_rows_in_every_step(values, kind, micro, ranks, epoch):
    """Whatever the ranks and micro-batches that share a step of 36 rows."""
    value_N = np.array(values)
    lengths_N = np.random.default_rng(0).integers(1, 50, len(values))
    common = {"step_rows": 36, "seed": 3, "epoch": epoch, "group_by_length": True}
    order = ordered_epoch(lengths_N, value_N, kind, group_rows=micro * ranks, **common)
    blanks = -len(values) % (micro * ranks)
    assert sorted(order.tolist()) == sorted([*range(len(values)), *[len(values)] * blanks])
    other = ordered_epoch(lengths_N, value_N, kind, group_rows=36, **common)
    for start in range(0, len(values), 36):
        rows = [set(each[start : start + 36].tolist()) - {len(values)} for each in (order, other)]
        assert rows[0] == rows[1]


@given(values=VALUES, epoch=st.integers(0, 2))
def test_a_curriculum_ascends_and_shuffles_ties(values, epoch):
    """Rows without a value come last."""
    ordered = np.array(values)[ordered_rows(np.array(values), "curriculum", seed=1, epoch=epoch)]
    known = ordered[~np.isnan(ordered)]
    assert (np.diff(known) >= 0).all()
    assert np.isnan(ordered[len(known) :]).all()
    ties = [ordered_rows(np.zeros(50), "curriculum", seed=1, epoch=number).tolist() for number in (0, 1)]
    assert ties[0] != ties[1]


@pytest.mark.parametrize("by", ["clusters", "losses"])
def test_interleaved_rows_are_spread_evenly(by):
    """In any tenth of the epoch each stratum has its share, give or take one row at either end."""
    rng = np.random.default_rng(0)
    value_N = rng.choice([0.1, 0.2, 0.7], 900, p=[0.7, 0.25, 0.05]) if by == "clusters" else rng.random(900)
    order = ordered_rows(value_N, "interleaved", seed=0, epoch=0)
    strata = np.unique(value_N, return_inverse=True)[1] if by == "clusters" else np.argsort(np.argsort(value_N)) // 90
    for stratum in range(strata.max() + 1):
        counts = [int((strata[order[start : start + 90]] == stratum).sum()) for start in range(0, 900, 90)]
        assert max(counts) - min(counts) <= 2
    assert (order != ordered_rows(value_N, "interleaved", seed=0, epoch=1)).any()


def test_an_order_is_asked_for_with_what_it_needs():
    """`shuffled` is no order, and leaves the settings of finished models as they were."""
    plain = make_config(FinetuneConfig, {})
    assert make_config(FinetuneConfig, {"order": "shuffled"}).determining() == plain.determining()
    assert "order" not in plain.determining()
    for values, message in (
        ({"order_by": "loss"}, "give order curriculum or interleaved"),
        ({"order": "curriculum", "mixture": [{}]}, "give no mixture"),
        ({"order": "curriculum", "order_scores": "x"}, "order_scores is for order_by loss"),
        ({"order": "curriculum", "order_by": "loss", "order_clusters": "x"}, "order_clusters is for"),
        ({"order": "sideways"}, "order: 'sideways' is none of shuffled, curriculum, interleaved"),
    ):
        with pytest.raises(UserError, match=message):
            make_config(FinetuneConfig, values)


@pytest.fixture
def run(tmp_path) -> Run:
    return write_run(tmp_path / "run", 30, keep_every=2)


def test_what_is_missing_is_named_with_its_command(run):
    """No scores, no clusters: an error before any work."""
    for by, message in (
        ("loss", "row_scores/token_losses.*raycurate score"),
        (None, "clusters/main.*raycurate cluster"),
    ):
        with pytest.raises(UserError, match=message):
            order_source(run, make_config(FinetuneConfig, {"order": "curriculum", "order_by": by}))
    assert order_source(run, make_config(FinetuneConfig, {})) == (None, [])


def _keys(run: Run) -> list[str]:
    return [key for part in run.noun("samples").iter_parts(["key"]) for key in part["key"].to_pylist()]


def test_rows_get_the_numbers_of_their_keys(run, tmp_path):
    """Losses by key, also of a selection's rows, in any shard; NaN for a row that has none."""
    model = str(make_tiny_vlm("llava", tmp_path / "llava"))
    keys = _keys(run)
    losses = {key: number / 30 for number, key in enumerate(sorted(keys)) if number != 7}
    write_scores(run, "token_losses", {"key": list(losses), "loss": list(losses.values())}, shards=2)
    source, read = order_source(run, make_config(FinetuneConfig, {"order": "curriculum", "order_by": "loss"}))
    assert [each.noun for each in read] == ["row_scores"]
    tokens = write_tokens(run, model)
    dataset = TokenDataset([TokenSource(tokens)], load_processor(model), TASKS, scratch=tmp_path / "scratch")
    expected = [losses.get(dataset.key(index), np.nan) for index in range(dataset.num_rows)]
    np.testing.assert_array_equal(source.values(dataset), expected)
    _check_clusters(run, dataset, keys)


def _check_clusters(run: Run, dataset: TokenDataset, keys: list[str]) -> None:
    """Minus the transferability of a row's cluster: those that transfer best come first."""
    import pyarrow as pa

    labels = np.arange(len(keys)) % 3
    features = np.eye(8)[labels].astype(np.float16)
    write_features(run, keys, features, shards=2)
    clusters = write_clusters(run, keys, features, labels, np.eye(8)[:3], shards=2)
    ranking = run.noun("ranking")
    ranking.begin({"stage": "rank", "made_from": {"clusters/main": clusters.require("x").fingerprint}})
    ranking.write_table("clusters.parquet", pa.table({"cluster": [0, 1, 2], "transferability_paper": [0.1, 0.9, 0.5]}))
    ranking.finish()
    source, read = order_source(run, make_config(FinetuneConfig, {"order": "interleaved"}))
    assert [each.noun for each in read] == ["clusters", "ranking"]
    assert source == OrderSource("interleaved", clusters, ranking)
    best = dict(zip(keys, np.array([-0.1, -0.9, -0.5])[labels], strict=True))
    np.testing.assert_array_equal(source.values(dataset), [best[dataset.key(i)] for i in range(dataset.num_rows)])


def test_a_finetune_trains_in_its_order(ray_cluster, run, tmp_path, monkeypatch):
    """The trainer goes through the rows by their losses, and the model knows what its order was made from."""
    model = str(make_tiny_vlm("llava", tmp_path / "llava"))
    keys = _keys(run)
    scores = write_scores(run, "token_losses", {"key": keys, "loss": [hash_of(key) for key in keys]}, shards=2)
    asked = []

    def recorded(lengths_N, value_N, kind, **settings):
        order = ordered_epoch(lengths_N, value_N, kind, **settings)
        asked.append((kind, settings["step_rows"], value_N[order[order < len(value_N)]]))
        return order

    monkeypatch.setattr("raycurate.training.trainer.ordered_epoch", recorded)
    own = {"method": "projector", "batch_rows": 4, "micro_batch": 2, "max_steps": 2, "trackers": [], "threads": 1}
    settings = {"model": model, "order": "curriculum", "order_by": "loss", "group_by_length": False, **own}
    manifest = finetune(run, make_config(FinetuneConfig, settings), in_process=True)
    assert manifest.metrics["rows_seen"] == 8
    kind, step_rows, values = asked[-1]
    assert (kind, step_rows) == ("curriculum", 4)
    assert len(values) == 15
    assert (np.diff(values) >= 0).all()
    assert manifest.description["made_from"]["row_scores/token_losses"] == scores.require("x").fingerprint


def hash_of(key: str) -> float:
    """A number of a key."""
    return int(key[:4], 16) / 65536


def test_shuffled_rows_have_the_order_of_before():
    """Without an order the trainer takes `epoch_order`, which this module does not touch."""
    order = epoch_order(np.arange(1, 12), group_rows=4, seed=0, epoch=0, group_by_length=True)
    assert order.tolist() == GOLDEN
