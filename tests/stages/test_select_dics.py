"""`dics` through `rank` and `select`: a ranking for each ratio, the same rows for any division of the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import required
from raycurate.stages.select import select
from tests.nouns import read_all, write_features, write_samples, write_scores
from tests.selection import naive_dics
from tests.selection.selection_cases import sample_keys, unit_features

ROWS = 80


@pytest.fixture(scope="module")
def rows() -> tuple[list[str], np.ndarray, list[float], list[float | None]]:
    """Keys, embeddings, losses with and without the image; every seventh row of text alone."""
    random = np.random.default_rng(4)
    loss, blind = (random.choice([0.5, 1.0, 2.5], ROWS).astype(np.float32).tolist() for _ in range(2))
    shown = [None if i % 7 == 0 else value for i, value in enumerate(blind)]
    return sample_keys(ROWS, 4), unit_features(ROWS, 16, 4), loss, shown


def run_of(folder: Path, rows: tuple, shards: int) -> Run:
    """A run directory whose last two rows have no loss."""
    keys, features, loss, blind = rows
    run, most = Run(str(folder)), slice(0, ROWS - 2)
    write_samples(run, keys, [f"t{i % 3}" for i in range(ROWS)], shards=shards)
    write_features(run, keys, features, shards=shards, block_dim=16, label="last_token")
    columns = {"key": keys[most], "loss": loss[most], "loss_blind": blind[most]}
    write_scores(run, "token_losses", columns, shards=shards)
    return run


def selected(run: Run, **settings) -> list[str]:
    """The keys that `dics` keeps."""
    select(run, make_config(SelectConfig, {"method": "dics", **settings}))
    table = read_all(run.noun("selection", settings.get("label", "main")))
    return sorted(table.filter(table["kept"])["key"].to_pylist())


def test_the_stage_keeps_what_the_loops_keep_for_any_division_of_the_work(ray_cluster, tmp_path, rows):
    """One shard, three or five; one, two or three tasks at once; rows without a loss take no part."""
    keys, features, loss, blind = rows
    most = slice(0, ROWS - 2)
    for shards, at_once in ((1, 1), (3, 2), (5, 3)):
        run = run_of(tmp_path / str(shards), rows, shards)
        for ratio in (0.1, 0.7):
            order = naive_dics.order(features[most], keys[most], loss[most], blind[most], ratio)
            kept = selected(run, ratio=ratio, label=f"r{ratio}", max_tasks=at_once)
            assert kept == sorted(order[: round(ratio * ROWS)])
        assert len(selected(run, ratio=0.1, label="within", envelope=True)) == 8
        for label in ("r0.1", "r0.7", "within"):  # the ranking of one ratio leaves that of another
            assert required(run.noun("selection", label)).metrics["kept"]
        given = selected(run, ratio=0.1, label="given", options={"ratio": 0.7})
        assert given == sorted(naive_dics.order(features[most], keys[most], loss[most], blind[most], 0.7)[:8])


def test_what_is_missing_is_named_with_its_command(ray_cluster, tmp_path, rows):
    """Losses, then the embedding."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, rows[0], ["t"] * ROWS)
    with pytest.raises(UserError, match="raycurate score .* --scores token_losses`"):
        selected(run)
    write_scores(run, "token_losses", {"key": rows[0], "loss": rows[2], "loss_blind": rows[3]})
    with pytest.raises(UserError, match="raycurate score .* --scores last_token`"):
        selected(run)
