"""`tive` through `rank` and `select`: the rows of the slow loops for any division of the work, and after kills."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Noun, Run
from raycurate.selection.keys import key_array, key_hashes
from raycurate.settings import make_config
from raycurate.stages.select import select
from tests.drivers import kill_at_commit
from tests.nouns import read_all, write_features, write_samples, write_scores
from tests.selection import naive_tive
from tests.selection.selection_cases import sample_keys, unit_features

ROWS, RATIO = 150, 0.3


class Case:
    """Rows of four unequal tasks, the last ones without a gradient."""

    def __init__(self, rows: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.keys = sample_keys(rows, seed)
        self.tasks = [f"t{t}" for t in random.choice(4, rows, p=[0.6, 0.25, 0.1, 0.05]).tolist()]
        self.sketches = unit_features(rows, 16, seed)
        self.norms = random.choice([0.25, 0.5, 3.0], rows).astype(np.float32)
        self.scored = rows - 3

    def write(self, folder: Path, shards: int) -> Run:
        """A run directory with what `score` makes."""
        run, most = Run(str(folder)), slice(0, self.scored)
        write_samples(run, self.keys, self.tasks, shards=shards)
        write_features(run, self.keys, self.sketches, shards=shards, block_dim=16, label="gradients")
        write_scores(
            run, "gradients", {"key": self.keys[most], "gradient_norm": self.norms[most].tolist()}, shards=shards
        )
        return run

    def expected(self, q: float) -> set[str]:
        """By slow loops."""
        value = naive_tive.values(self.sketches, self.tasks)
        usable = [i < self.scored for i in range(len(self.keys))]
        target = round(RATIO * len(self.keys))
        rows = naive_tive.budgets(self.norms.tolist(), self.tasks, usable, target, 1)
        hashes = key_hashes(key_array(pa.array(self.keys)), seed=0, purpose="gumbel").tolist()
        return naive_tive.kept(self.keys, self.tasks, value, usable, rows, q, hashes)


@pytest.fixture(scope="module")
def case() -> Case:
    """Small."""
    return Case(ROWS, 3)


def selected(run: Run, **settings) -> set[str]:
    """The keys that `tive` keeps."""
    manifest = select(run, make_config(SelectConfig, {"method": "tive", "ratio": RATIO, **settings}))
    table = read_all(run.noun("selection", settings.get("label", "main")))
    assert manifest.metrics["kept"] == round(settings.get("ratio", RATIO) * len(table))
    return set(table.filter(table["kept"])["key"].to_pylist())


def test_the_stage_keeps_what_the_loops_keep_for_any_division_of_the_work(ray_cluster, tmp_path, case):
    """One shard, three or five; one, two or three tasks at once; the rows are read twice for all draws."""
    for shards, at_once in ((1, 1), (3, 2), (5, 3)):
        run, made = case.write(tmp_path / str(shards), shards), []
        for name, q in (("draw", 0.001), ("tilted", 30.0), ("best", math.inf)):
            assert selected(run, label=name, max_tasks=at_once, options={"q": q}) == case.expected(q)
            made.append(run.noun("ranking", "by-tive").manifest())
        assert made == made[:1] * 3
        assert made[0].metrics["groups"] == 4
        within = selected(run, label="within", envelope=True, max_tasks=at_once)
        assert within == selected(run, label="again", envelope=True)
        reasons = set(read_all(run.noun("selection", "draw"))["reason"].to_pylist())
        assert reasons == {"within_budget", "over_budget", "no_score"}


def written(noun: Noun) -> dict[str, int]:
    """When each record of a noun was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(noun.folder).glob("records/*.json")}


def test_what_is_missing_is_named_with_its_command(ray_cluster, tmp_path, case):
    """Gradients are made by `score`."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, case.keys, case.tasks)
    with pytest.raises(UserError, match="raycurate score .* --scores gradients`"):
        selected(run)


@pytest.mark.slow
def test_kills_in_the_passes_do_not_change_the_answer(tmp_path):
    """kill -9 while sums are added up, while values are written, while shards are decided: the rows of the loops."""
    made = Case(150, 5)
    run = made.write(tmp_path / "struck", 6)
    ranking, selection = run.noun("ranking", "by-tive"), run.noun("selection")
    command = ("select", run.uri, "--method", "tive", "--ratio", str(RATIO))
    kill_at_commit("*/work/sums/*.json", 2, *command)
    assert not ranking.records()
    kill_at_commit("*/ranking/*/part-*", 2, *command)
    assert (len(ranking.records()), ranking.manifest()) == (2, None)
    kill_at_commit("*/selection/*/part-*", 2, *command)
    assert (len(selection.records()), selection.manifest()) == (2, None)
    left = written(selection)
    assert selected(run) == made.expected(0.001)
    assert left.items() <= written(selection).items(), "shards that were there are made once"
