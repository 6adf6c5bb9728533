"""PRISM and ScalSelect through `rank` and `select`: whole matrices, any division of the work, and kills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycurate.config import RankConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.selection.keys import key_hashes
from raycurate.settings import make_config
from raycurate.stages.rank import rank
from raycurate.stages.ranking import passes
from raycurate.stages.select import select
from tests.drivers import kill_at_commit
from tests.nouns import read_all, write_features, write_samples
from tests.selection.selection_cases import TaskedCase, tasked_case

LABELS = {"prism": "visual", "scalselect": "attended"}


def images_of(made: TaskedCase) -> np.ndarray:
    """Features by what an image shows: zero in every ninth row, copies among the others."""
    features = made.case.features.copy()
    features[1::7] = features[1]
    features[::9] = 0
    return features


def lengths_of(made: TaskedCase) -> np.ndarray:
    """How long the rows were."""
    return np.random.default_rng(8).uniform(0.5, 2.0, len(made.tasks)).astype(np.float32)


def run_of(folder: Path, made: TaskedCase, *, shards: int, lost: int = 2) -> Run:
    """Samples and both embeddings; the last rows are lost."""
    run, count = Run(str(folder)), len(made.tasks) - lost
    write_samples(run, made.case.keys, made.tasks, shards=shards)
    for label in LABELS.values():
        lengths = lengths_of(made) if label == "attended" else None
        write_features(
            run, made.case.keys[:count], images_of(made)[:count], shards=shards, label=label, lengths_N=lengths
        )
    return run


def selected(run: Run, method: str, ratio: float = 0.3, **settings) -> set[str]:
    """The keys that are kept."""
    values = {"method": method, "ratio": ratio, "label": method, **settings}
    manifest = select(run, make_config(SelectConfig, values))
    table = read_all(run.noun("selection", values["label"]))
    kept = set(table.filter(table["kept"])["key"].to_pylist())
    assert manifest.metrics["kept"] == len(kept)
    return kept


def expected(made: TaskedCase, method: str, ratio: float, lost: int = 2) -> set[str]:
    """From the whole matrix in one process."""
    count = len(made.tasks) - lost
    features, keys = images_of(made)[:count].astype(np.float64), made.case.keys[:count]
    shown = np.flatnonzero(features.any(axis=1))
    if method == "prism":
        score = np.corrcoef(features[shown]).mean(axis=1).round(6)
    else:
        raw = features[shown] * lengths_of(made)[shown, None].astype(np.float64)
        left, singular, _ = np.linalg.svd(raw - raw.mean(axis=0), full_matrices=False)
        held = np.cumsum(singular**2) / (singular**2).sum()
        score = -(left[:, : int((held < 0.9).sum()) + 1] ** 2).sum(axis=1).round(4)
    target = round(ratio * len(made.tasks))
    of_text = round(target * (count - len(shown)) / count)
    first = sorted(zip(score.tolist(), [keys[i] for i in shown], strict=True))[: target - of_text]
    text = np.array([keys[i] for i in range(count) if not features[i].any()], dtype=np.bytes_)
    drawn = text[np.argsort(key_hashes(text, seed=0, purpose="draw"))][:of_text]
    return {key for _, key in first} | {key.decode() for key in drawn.tolist()}


def test_the_rows_of_whole_matrices_for_any_division_of_the_work(ray_cluster, tmp_path):
    """One shard or five, one task or three at once, several runs of shards; the same inside the envelope."""
    made, within = tasked_case(9, rows=160), {}
    for shards, at_once in ((1, 1), (5, 2), (3, 3)):
        run = run_of(tmp_path / str(shards), made, shards=shards)
        for method in LABELS:
            kept = selected(run, method, max_tasks=at_once)
            assert len(kept ^ expected(made, method, 0.3)) <= (0 if method == "prism" else 2), (method, shards)
            inside = selected(run, method, envelope=True, label=f"{method}-within")
            assert within.setdefault(method, (kept, inside)) == (kept, inside)
            reasons = run.noun("selection", method).manifest().metrics["reasons"]
            assert reasons["no_features"] == 2
            assert reasons["drawn"] + reasons["not_drawn"] == len(range(0, 158, 9))
            clusters = run.noun("selection", method).read_table("clusters.parquet").to_pydict()
            assert clusters["size"] == [18, 140]
            assert sum(clusters["quota"]) == 48


def test_sums_are_of_a_bounded_number_of_files(ray_cluster, tmp_path, monkeypatch):
    """More shards than runs: a run adds several, and the numbers are the same to the last bit."""
    made = tasked_case(4, rows=120)
    run = run_of(tmp_path / "run", made, shards=6)
    whole = {method: selected(run, method) for method in LABELS}
    values = {method: read_all(run.noun("ranking", f"by-{method}"))["value"] for method in LABELS}
    monkeypatch.setattr(passes, "RUNS", 2)
    other = run_of(tmp_path / "other", made, shards=6)
    for method in LABELS:
        assert selected(other, method) == whole[method]
        assert read_all(other.noun("ranking", f"by-{method}"))["value"].equals(values[method])


def test_prism_compares_with_the_rows_of_a_task_where_that_is_asked(ray_cluster, tmp_path):
    """Each task's own correlation matrix; with its whole share in the envelope each task keeps its lowest rows."""
    made = tasked_case(6, rows=120)
    run = run_of(tmp_path / "run", made, shards=4, lost=0)
    kept = selected(run, "prism", 0.5, options={"within": "task"}, envelope="1,1,0")
    table = read_all(run.noun("ranking", "by-prism"))
    values = dict(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
    features, keys = images_of(made).astype(np.float64), made.case.keys
    for task in set(made.tasks):
        own = [i for i, other in enumerate(made.tasks) if other == task and features[i].any()]
        score = np.atleast_2d(np.corrcoef(features[own])).mean(axis=1)
        assert [values[keys[i]] for i in own] == pytest.approx(score.tolist(), abs=1e-6)
        stay = [values[keys[i]] for i in own if keys[i] in kept]
        assert max(stay, default=-1) <= min([values[keys[i]] for i in own if keys[i] not in kept], default=2)


def test_tasks_are_those_of_the_samples_that_the_features_are_of(ray_cluster, tmp_path):
    """Also where these have a label of their own."""
    made = tasked_case(7, rows=60)
    run = Run(str(tmp_path / "run"))
    write_samples(run, made.case.keys, made.tasks, shards=2, label="other")
    write_features(run, made.case.keys, images_of(made), shards=2, label="other-visual", samples="other")
    settings = {"order": "prism", "options": {"within": "task"}, "features": "other-visual", "label": "own"}
    manifest = rank(run, make_config(RankConfig, settings))
    assert manifest.metrics["groups"] == len(set(made.tasks))
    assert manifest.description["made_from"].keys() == {"features/other-visual", "samples/other"}


def test_what_is_missing_is_named_with_its_command(ray_cluster, tmp_path):
    """Each says which embedding to score."""
    made = tasked_case(2, rows=20)
    run = Run(str(tmp_path / "run"))
    write_samples(run, made.case.keys, made.tasks)
    for method, label in LABELS.items():
        with pytest.raises(UserError, match=f"raycurate score .* --scores {label}`"):
            selected(run, method)


@pytest.mark.slow
def test_kills_in_ranking_and_selecting_do_not_change_the_answer(ray_cluster, tmp_path):
    """kill -9 while sums are added, while numbers are computed, and while shards are decided: a calm run's rows."""
    made = tasked_case(11, rows=120, clusters=12)
    calm = selected(run_of(tmp_path / "calm", made, shards=6), "scalselect")
    run = run_of(tmp_path / "struck", made, shards=6)
    ranking = run.noun("ranking", "by-scalselect")
    command = ("select", run.uri, "--method", "scalselect", "--ratio", "0.3", "--label", "scalselect")
    kill_at_commit("*/work/sums/*.json", 2, *command)
    kill_at_commit("*/ranking/*/part-*", 2, *command)
    assert (len(ranking.records()), ranking.manifest()) == (2, None)
    kill_at_commit("*/selection/*/part-*", 2, *command)
    assert len(run.noun("selection", "scalselect").records()) == 2
    assert selected(run, "scalselect") == calm
