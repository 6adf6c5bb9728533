"""What the report says of clusters: against loops over pairs, the same for any blocks, bounded by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.report import diversity, geometry
from raycurate.report.cluster_figures import diversity_figures, transfer_figure
from raycurate.report.collect import ClusterFacts, largest_tasks
from raycurate.report.diversity import Alike, Diversity, PairSums, diversity_of
from raycurate.report.geometry import Geometry, geometry_of, transfer_of_tasks
from raycurate.run.store import Run
from raycurate.selection.transferability import transferability
from tests.nouns import write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case

ROWS, CLUSTERS = 90, 6


@pytest.fixture(scope="module")
def case():
    return clustered_case(3, rows=ROWS, clusters=CLUSTERS)


@pytest.fixture(scope="module")
def run(case, tmp_path_factory) -> Run:
    """Samples, features and clusters in three shards, and a selection of every third row."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    keys = [f"{i:032x}-0" for i in range(ROWS)]
    write_samples(run, keys, [f"t{label % 2}" for label in case.labels], shards=3)
    write_features(run, keys, case.features, shards=3, block_dim=case.block_dim)
    write_clusters(run, keys, case.features, case.labels, case.centroids, shards=3)
    selection = run.noun("selection")
    selection.begin({"stage": "select", "config": {}})
    samples = run.noun("samples")
    place = {key: i for i, key in enumerate(keys)}
    for shard in range(3):
        held = samples.read_part(shard, ["key"])
        rows = [place[key] for key in held["key"].to_pylist()]
        columns = {"cluster": [int(case.labels[i]) for i in rows], "kept": [i % 3 == 0 for i in rows]}
        table = held
        for name, values in columns.items():
            table = table.append_column(name, [values])
        selection.commit_part(shard, table, rows_in=len(rows))
    selection.finish()
    return run


def _facts(case) -> list[ClusterFacts]:
    sizes = np.bincount(case.labels, minlength=CLUSTERS)
    return [ClusterFacts(k, int(n), 0, None, None, None, f"t{k % 2} {n}") for k, n in enumerate(sizes)]


def _geometry(run, case) -> Geometry:
    return geometry_of(run.noun("clusters"), _facts(case), {k: f"t{k % 2}" for k in range(CLUSTERS)})


def test_transferability_is_that_of_the_selection(run, case):
    """S of Eq. 5, as `coincide` takes it."""
    sizes = np.bincount(case.labels, minlength=CLUSTERS)
    expected = transferability(case.centroids, sizes)
    found = _geometry(run, case).transferability
    assert [found[k] for k in range(CLUSTERS)] == pytest.approx(expected.tolist(), abs=1e-6)


def test_pairs_are_the_most_alike_of_different_tasks(run, case):
    """Against a loop; no pair of one task, no cluster in more than two."""
    units = case.centroids / np.linalg.norm(case.centroids, axis=1, keepdims=True)
    found = _geometry(run, case).pairs
    best = max((float(units[a] @ units[b]), a, b) for a in range(CLUSTERS) for b in range(a) if (a - b) % 2)
    assert found[0].cosine == pytest.approx(best[0], abs=1e-5)
    assert {found[0].one, found[0].other} == {best[1], best[2]}
    assert all(pair.tasks[0] != pair.tasks[1] for pair in found)
    assert max(np.bincount([k for pair in found for k in (pair.one, pair.other)])) <= 2


def test_blocks_change_nothing(run, case, monkeypatch):
    """Centroids one at a time, and all at once: the same map, numbers and pairs."""
    whole = _geometry(run, case)
    monkeypatch.setattr(geometry, "BLOCK_BYTES", 1)
    parts = _geometry(run, case)
    assert [(d.x, d.y) for d in parts.dots] == pytest.approx([(d.x, d.y) for d in whole.dots])
    assert parts.transferability == pytest.approx(whole.transferability)
    assert [(p.one, p.other) for p in parts.pairs] == [(p.one, p.other) for p in whole.pairs]


def test_the_map_keeps_what_is_far_apart(run, case, monkeypatch):
    """Distances of the two components are never larger than the true ones; a projection keeps them about."""
    dots = _geometry(run, case).dots
    units = case.centroids / np.linalg.norm(case.centroids, axis=1, keepdims=True)
    for one in dots:
        for other in dots:
            true = float(np.linalg.norm(units[one.cluster] - units[other.cluster]))
            assert np.hypot(one.x - other.x, one.y - other.y) <= true + 1e-6
    monkeypatch.setattr(geometry, "MAP_DIMS", 2)
    assert len(_geometry(run, case).dots) == len(dots)


def test_nothing_to_see_is_no_error(run):
    """No clusters in the selection, or none in the run."""
    assert geometry_of(run.noun("clusters"), [], {}) == Geometry()
    assert geometry_of(run.noun("clusters", "gone"), [ClusterFacts(0, 1, 1, None, None, None, "")], {}) == Geometry()
    assert diversity_of(run, run.noun("selection"), None, [0], 0) is None
    assert diversity_of(run, run.noun("selection"), "gone", [0], 0) is None


@given(
    st.dictionaries(st.tuples(st.integers(0, 5), st.sampled_from("abc")), st.integers(1, 30), min_size=1),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_a_task_has_the_mean_of_its_rows(counts, values):
    """Against rows written out one by one."""
    found = {each.task: each for each in transfer_of_tasks(counts, dict(enumerate(values)))}
    for task in {task for _, task in counts}:
        rows = sorted(values[k] for (k, t), n in counts.items() if t == task for _ in range(n))
        assert found[task].mean == pytest.approx(sum(rows) / len(rows), abs=1e-9)
        assert rows[0] <= found[task].low <= found[task].high <= rows[-1]
        assert sum(value <= found[task].low for value in rows) >= 0.1 * len(rows) - 1e-6
        assert sum(value <= found[task].high for value in rows) >= 0.9 * len(rows) - 1e-6


def test_the_largest_task_of_a_cluster():
    """Ties go to the first name."""
    assert largest_tasks({(0, "b"): 2, (0, "a"): 2, (1, "b"): 1, (1, "a"): 3}) == {0: "a", 1: "a"}


def _mean_cosine(rows: np.ndarray) -> float | None:
    pairs = [float(a @ b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    return sum(pairs) / len(pairs) if pairs else None


def test_how_alike_rows_are_is_the_mean_over_pairs(run, case, monkeypatch):
    """Overall and in each cluster, kept and all, against loops over pairs; small blocks give the same."""
    monkeypatch.setattr(diversity, "BLOCK_ROWS", 7)
    found = diversity_of(run, run.noun("selection"), "main", [1, 4], 0)
    units = case.features.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    kept = np.arange(ROWS) % 3 == 0
    assert (found.rows, found.of) == (ROWS, ROWS)
    assert found.overall.all == pytest.approx(_mean_cosine(units), abs=1e-9)
    assert found.overall.kept == pytest.approx(_mean_cosine(units[kept]), abs=1e-9)
    for cluster in (1, 4):
        own = case.labels == cluster
        assert found.within[cluster].rows == own.sum()
        assert found.within[cluster].all == pytest.approx(_mean_cosine(units[own]), abs=1e-9)
        assert found.within[cluster].kept == pytest.approx(_mean_cosine(units[own & kept]), abs=1e-9)


def test_large_features_are_read_in_part(run, monkeypatch):
    """As many drawn shards as fit, at least one; the page says of how many rows it speaks; the seed decides."""
    monkeypatch.setattr(diversity, "FEATURE_BYTES", 1)
    found = [diversity_of(run, run.noun("selection"), "main", [1], seed) for seed in range(6)]
    assert all(0 < each.rows < ROWS for each in found)
    assert len({each.overall.all for each in found}) > 1
    assert f"From {found[0].rows} of {ROWS} rows" in diversity_figures(found[0])[0].text


def test_figures_of_clusters_hold_for_single_rows():
    """One row has no pair: its cluster is not drawn."""
    alone = Diversity(1, 1, Alike(None, None, 1), {3: Alike(None, 0.5, 2)})
    assert diversity_figures(alone) == []
    (figure,) = diversity_figures(Diversity(3, 3, Alike(0.25, 0.5, 3), {3: Alike(0.1, 0.4, 3)}))
    assert "0.250 beside 0.500" in figure.text
    assert "cluster 3: -0.3" in figure.chart
    assert transfer_figure([], 0).chart == ""
    assert PairSums(1, 2).mean(0) is None
