"""PreSel through `rank` and `select`: the rows of slow loops for any division of the work, and after kills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raycurate.clustering.kmeans import KMeansSettings, spherical_kmeans
from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.selection.ranked import NO_IMAGE
from raycurate.settings import make_config
from raycurate.stages.ranking.by_task import ITERATIONS, SEED
from raycurate.stages.select import select
from tests.drivers import kill_at_commit
from tests.nouns import read_all, write_features, write_samples, write_scores
from tests.selection.methods.test_presel import naive
from tests.selection.selection_cases import TaskedCase, tasked_case

OPTIONS = {"rows_per_cluster": 12, "neighbours": 3}


def images_of(made: TaskedCase) -> np.ndarray:
    """Features by what an image shows: zero in every ninth row, copies in one task."""
    features = made.case.features.copy()
    copies = [i for i, task in enumerate(made.tasks) if task == "few"]
    features[copies] = features[copies[0]]
    features[::9] = 0
    return features


def reference_of(made: TaskedCase) -> dict[str, list]:
    """What `score` writes of the reference: some rows with an image, one lost row."""
    random = np.random.default_rng(3)
    drawn = (random.random(len(made.tasks)) < 0.1) & images_of(made).any(axis=1)
    irs = np.where(drawn, random.uniform(0.2, 1.4, len(made.tasks)).astype(np.float32), np.nan)
    columns = {
        "key": made.case.keys,
        "reference": drawn.tolist(),
        "irs": [float(value) if known else None for value, known in zip(irs, drawn, strict=True)],
    }
    return {name: values[:-1] for name, values in columns.items()}


def run_of(folder: Path, made: TaskedCase, *, shards: int) -> Run:
    """The run directory up to its scores."""
    run = Run(str(folder))
    write_samples(run, made.case.keys, made.tasks, shards=shards)
    write_features(run, made.case.keys, images_of(made), shards=shards, label="visual")
    write_scores(run, "reference", reference_of(made), shards=shards)
    return run


def selected(run: Run, ratio: float = 0.4, **settings) -> set[str]:
    """The keys that are kept."""
    values = {"method": "presel", "options": OPTIONS, "ratio": ratio, **settings}
    manifest = select(run, make_config(SelectConfig, values))
    table = read_all(run.noun("selection", settings.get("label", "main")))
    kept = set(table.filter(table["kept"])["key"].to_pylist())
    assert manifest.metrics["kept"] == len(kept)
    return kept


def expected(made: TaskedCase, ratio: float) -> set[str]:
    """Clusters of each task by k-means of its rows alone, typicality and quotas by slow loops."""
    features, keys, count = images_of(made), made.case.keys, len(made.tasks)
    reference = reference_of(made)
    cluster, rank = np.full(count, NO_IMAGE), np.zeros(count, dtype=np.int64)
    wide = features.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-9)
    for number, task in enumerate(sorted(set(made.tasks))):
        at = sorted((i for i in range(count) if made.tasks[i] == task and features[i].any()), key=lambda i: keys[i])
        if not at:
            continue
        settings = KMeansSettings(clusters=max(1, len(at) // 12), iterations=ITERATIONS, seed=SEED)
        labels = spherical_kmeans(features[at], settings, keys=[keys[i] for i in at], may_collapse=True).labels_N
        for label in set(labels.tolist()):
            own = [i for i, other in zip(at, labels.tolist(), strict=True) if other == label]
            value = {}
            for i in own:
                near = sorted((round(float(wide[i] @ wide[j]), 9) for j in own if j != i), reverse=True)[:3]
                value[i] = sum(near) / len(near) if near else 0.0
            for place, i in enumerate(sorted(own, key=lambda i: (-value[i], keys[i]))):
                cluster[i], rank[i] = 1 + 1000 * number + label, place
    table = pa.table(
        {
            "key": keys,
            "task": made.tasks,
            "cluster": pa.array(cluster),
            "rank": pa.array(rank),
            "reference": pa.array([*reference["reference"], None]),
            "irs": pa.array([*reference["irs"], None], pa.float64()),
        }
    )
    return naive(table, ratio, 0)


def test_the_rows_of_slow_loops_for_any_division_of_the_work(ray_cluster, tmp_path):
    """One shard or five, one task or three at once: the naive rows; the same inside the envelope; all counted."""
    made = tasked_case(9, rows=160)
    whole, within = expected(made, 0.4), None
    for shards, at_once in ((1, 1), (5, 2), (3, 3)):
        run = run_of(tmp_path / str(shards), made, shards=shards)
        assert selected(run, max_tasks=at_once) == whole, shards
        inside = selected(run, envelope=True, label="within", max_tasks=at_once)
        within = within or inside
        assert inside == within
    manifest = run.noun("selection").manifest()
    assert manifest.metrics["kept"] == 64
    assert manifest.metrics["reasons"]["no_score"] == 1
    tasks = run.noun("selection", "within").read_table("tasks.parquet")
    assert all(kept >= int(fair / 2) for kept, fair in zip(*tasks.select(["kept", "fair_rows"]).to_pydict().values()))  # noqa: B905
    cells = run.noun("ranking", "by-presel").read_table("cells.parquet").to_pylist()
    assert sum(cell["size"] for cell in cells) == 160
    assert sum(cell["size"] for cell in cells if cell["cluster"] == NO_IMAGE) == len(range(0, 160, 9))


def test_what_is_missing_is_named_with_its_command(ray_cluster, tmp_path):
    """Each of the two that it reads."""
    made = tasked_case(2, rows=20)
    run = Run(str(tmp_path / "run"))
    write_samples(run, made.case.keys, made.tasks)
    with pytest.raises(UserError, match="raycurate score .* --scores reference`"):
        selected(run)
    write_scores(run, "reference", reference_of(made))
    with pytest.raises(UserError, match="raycurate score .* --scores visual`"):
        selected(run)


@pytest.mark.slow
def test_kills_in_ranking_and_selecting_do_not_change_the_answer(ray_cluster, tmp_path):
    """kill -9 while rows are brought to their tasks, and while shards are decided: the rows of a calm run."""
    made = tasked_case(11, rows=120, clusters=12)
    calm = selected(run_of(tmp_path / "calm", made, shards=6), 0.3)
    run = run_of(tmp_path / "struck", made, shards=6)
    ranking, selection = run.noun("ranking", "by-presel"), run.noun("selection")
    command = ("select", run.uri, "--method", "presel", "--ratio", "0.3")
    command += tuple(word for name, value in OPTIONS.items() for word in ("--set", f"options.{name}={value}"))
    kill_at_commit("*/work/routed/*.json", 2, *command)
    assert ranking.manifest() is None
    kill_at_commit("*/selection/*/part-*", 2, *command)
    assert (len(selection.records()), selection.manifest()) == (2, None)
    assert selected(run, 0.3) == calm
