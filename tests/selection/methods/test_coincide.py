from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from raycurate.errors import UserError
from raycurate.selection import ClusterTable, Goal, SelectionTables, build_selector
from raycurate.selection.local import select_rows
from raycurate.selection.methods.coincide import Coincide
from tests.selection import naive_coincide
from tests.selection.selection_cases import clustered_case


def _kept(selector: object, tables: SelectionTables, goal: Goal, blocks: list[pa.Table]) -> set[str]:
    kept: set[str] = set()
    for rows, decisions in select_rows(selector, tables, goal, lambda: blocks):
        kept |= {key for key, keep in zip(rows["key"].to_pylist(), decisions.kept_N, strict=True) if keep}
    return kept


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("s_reading", ["paper", "code"])
@pytest.mark.parametrize("d_reading", ["paper", "code"])
def test_selection_equals_the_published_method(seed: int, s_reading: str, d_reading: str) -> None:
    """Clusters to kept keys: the set of the float64 reference, in every reading of S and D."""
    case = clustered_case(seed)
    ratio, temperature, sigma = (0.1, 0.2, 0.4, 0.7)[seed % 4], (0.05, 0.1, 1.0)[seed % 3], (1.0, 0.5)[seed % 2]
    tables, rows = case.tables_and_rows(sigma)
    selector = Coincide(temperature=temperature, transferability=s_reading, density=d_reading)
    expected = naive_coincide.select(
        case.features,
        case.keys,
        case.labels.tolist(),
        case.centroids,
        ratio=ratio,
        temperature=temperature,
        sigma=sigma,
        s_reading=s_reading,
        d_reading=d_reading,
        block_dim=case.block_dim,
    )
    assert _kept(selector, tables, Goal(ratio=ratio), [rows]) == expected


@pytest.mark.parametrize("order_by", ["mmd", "nearest", "random"])
def test_blocks_and_order_of_rows_do_not_matter(order_by: str) -> None:
    """The same keys for one block or many, in any order; exactly the target (oracle 9)."""
    tables, rows = clustered_case(3, rows=200).tables_and_rows(1.0)
    selector, goal = Coincide(order_by=order_by), Goal(ratio=0.25, seed=5)
    mixed = rows.take(np.random.default_rng(0).permutation(200))
    whole = _kept(selector, tables, goal, [rows])
    assert len(whole) == 50
    assert _kept(selector, tables, goal, [mixed.slice(start, 13) for start in range(0, 200, 13)]) == whole


@pytest.mark.parametrize("order_by", ["mmd", "nearest", "random"])
def test_orders_within_a_cluster_share_the_quotas(order_by: str) -> None:
    """Whatever orders the rows, a cluster gives its quota."""
    tables, rows = clustered_case(4, rows=150).tables_and_rows(1.0)
    selector = Coincide(order_by=order_by)
    quota = selector.plan(tables, Goal(ratio=0.3)).quota_G
    kept = _kept(selector, tables, Goal(ratio=0.3), [rows])
    given = np.bincount([row["cluster"] for row in rows.to_pylist() if row["key"] in kept], minlength=quota.size)
    assert given.tolist() == quota.tolist()


def test_nearest_keeps_the_most_similar_rows() -> None:
    """Within a cluster no dropped row is closer to the centroid than a kept one."""
    tables, rows = clustered_case(6, rows=120).tables_and_rows(1.0)
    kept = _kept(Coincide(order_by="nearest"), tables, Goal(ratio=0.4), [rows])
    for cluster in range(5):
        inside = [row for row in rows.to_pylist() if row["cluster"] == cluster]
        near = [row["similarity"] for row in inside if row["key"] in kept]
        far = [row["similarity"] for row in inside if row["key"] not in kept]
        assert min(near, default=math.inf) >= max(far, default=-math.inf)


def test_larger_ratios_keep_the_picks_of_a_cluster() -> None:
    """Picks are nested: more quota adds rows and removes none."""
    tables, rows = clustered_case(7, clusters=1, rows=80).tables_and_rows(1.0)
    kept = [_kept(Coincide(), tables, Goal(ratio=ratio), [rows]) for ratio in (0.1, 0.3, 0.6, 1.0)]
    assert all(small < large for small, large in zip(kept, kept[1:], strict=False))
    assert [len(keys) for keys in kept] == [8, 24, 48, 80]


def test_rows_have_a_reason_and_a_score() -> None:
    """Kept, over quota, and of no cluster; the score is the rank."""
    tables, rows = clustered_case(8).tables_and_rows(1.0)
    stray = pa.table({"key": ["x", "y"], "cluster": [99, None], "rank": [0, None], "similarity": [0.5, None]})
    (_, decisions), (_, other) = select_rows(
        Coincide(), tables, Goal(ratio=0.5), lambda: [rows, stray.cast(rows.schema)]
    )
    assert set(decisions.reason_N[decisions.kept_N]) == {"within_quota"}
    assert set(decisions.reason_N[~decisions.kept_N]) == {"over_quota"}
    assert (decisions.score_N == rows["rank"].to_numpy()).all()
    assert other.kept_N.tolist() == [False, False]
    assert other.reason_N.tolist() == ["no_group", "no_group"]


def test_the_plan_reports_how_quotas_came_about() -> None:
    """S, D, P and quota of each cluster, in the readings that were used."""
    tables, _ = clustered_case(9).tables_and_rows(1.0)
    plan = Coincide(transferability="code", density="code").plan(tables, Goal(ratio=0.2))
    assert plan.target == plan.expected == 12
    assert (plan.report["transferability"] == tables.clusters.transferability["code"]).all()
    assert (plan.report["density"] == tables.clusters.density["code"]).all()
    assert plan.report["probability"].sum() == pytest.approx(1)


def test_ablations_need_only_what_they_use() -> None:
    """An equal budget with rows drawn at random reads no ranking."""
    tables = SelectionTables(num_rows=9, clusters=ClusterTable(cluster_K=np.array([2, 5]), size_K=np.array([3, 6])))
    plain = Coincide(weighting="equal", order_by="random")
    assert plain.needs == {"clusters"}
    assert plain.columns == {"key", "cluster"}
    assert plain.plan(tables, Goal(ratio=4 / 9)).quota_G.tolist() == [2, 2]
    assert Coincide().needs == {"ranking"}
    assert Coincide().columns == {"key", "cluster", "rank"}
    with pytest.raises(UserError, match="no transferability in the reading 'paper'"):
        Coincide().plan(tables, Goal(ratio=0.5))
    with pytest.raises(UserError, match="needs a cluster table"):
        Coincide().plan(SelectionTables(num_rows=9), Goal(ratio=0.5))


def test_options_are_checked() -> None:
    """A wrong value ends with a message that names it."""
    with pytest.raises(UserError, match="temperature is 0"):
        build_selector("coincide", {"temperature": 0})
    with pytest.raises(UserError, match="max_keep_fraction is 2"):
        build_selector("coincide", {"max_keep_fraction": 2.0})
    with pytest.raises(UserError, match="ratio is 1.5"):
        Goal(ratio=1.5)
    with pytest.raises(UserError, match="ratio is 0"):
        Goal(ratio=0)
