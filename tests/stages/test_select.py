"""rank and select on a cluster choose what the formulas choose, whatever the division of the work."""

from __future__ import annotations

import numpy as np
import pytest

from raycurate.config import RankConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.rank import rank
from raycurate.stages.select import check_target, select
from tests.nouns import read_all, write_clusters, write_features, write_samples
from tests.selection import naive_coincide
from tests.selection.selection_cases import clustered_case


def _run(folder, case, *, shards: int, clusters: bool = True) -> Run:
    run = Run(str(folder))
    tasks = [f"task {i % 3}" for i in range(len(case.keys))]
    write_samples(run, case.keys, tasks, shards=shards)
    if clusters:
        write_features(run, case.keys, case.features, shards=shards, block_dim=case.block_dim)
        write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=shards)
    return run


def _select(run: Run, **settings) -> tuple[set[str], object]:
    manifest = select(run, make_config(SelectConfig, {"method": "coincide", **settings}))
    table = read_all(run.noun("selection", settings.get("label", "main")))
    return set(table.filter(table["kept"])["key"].to_pylist()), manifest


@pytest.mark.parametrize(("seed", "reading"), [(1, "paper"), (2, "code"), (3, "paper"), (4, "code")])
def test_the_stages_choose_what_the_formulas_choose(ray_cluster, tmp_path, seed, reading):
    """Rank and select over several shards equal the float64 reference, for both readings of S and D."""
    case = clustered_case(seed)
    run = _run(tmp_path / "run", case, shards=3)
    options = {"temperature": 0.2, "transferability": reading, "density": reading}
    kept, manifest = _select(run, ratio=0.3, options=options)
    expected = naive_coincide.select(
        case.features,
        case.keys,
        case.labels.tolist(),
        case.centroids,
        ratio=0.3,
        temperature=0.2,
        sigma=1.0,
        s_reading=reading,
        d_reading=reading,
        block_dim=case.block_dim,
    )
    assert kept == expected
    assert manifest.metrics["kept"] == round(0.3 * len(case.keys))


def test_the_division_of_the_work_changes_nothing(ray_cluster, tmp_path):
    """One shard or five, small regrouping tasks or one: the same rows with the same ranks."""
    case = clustered_case(7, rows=120)
    tables = []
    for number, (shards, bucket_mb) in enumerate(((1, 256), (5, 1), (3, 256))):
        run = _run(tmp_path / str(number), case, shards=shards)
        rank(run, make_config(RankConfig, {"bucket_mb": bucket_mb}))
        select(run, make_config(SelectConfig, {"method": "coincide", "ratio": 0.4}))
        table = read_all(run.noun("selection")).select(["key", "kept", "cluster", "rank", "score", "reason"])
        tables.append(table.sort_by("key"))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_large_clusters_are_ranked_in_chunks(ray_cluster, tmp_path):
    """Above `max_rows` a cluster is ranked in hashed chunks, and every row still has one rank."""
    case = clustered_case(8, rows=90, clusters=2)
    run = _run(tmp_path / "run", case, shards=2)
    manifest = rank(run, make_config(RankConfig, {"max_rows": 20}))
    assert manifest.metrics["chunked_clusters"] >= 1
    table = read_all(run.noun("ranking"))
    for cluster in (0, 1):
        ranks = sorted(table.filter(np.array(table["cluster"]) == cluster)["rank"].to_pylist())
        assert ranks == list(range(len(ranks)))


@pytest.mark.parametrize("method", ["random", "stratified"])
@pytest.mark.parametrize("ratio", [0.07, 0.5, 1.0])
def test_baselines_keep_exactly_their_budget(ray_cluster, tmp_path, method, ratio):
    """Random and stratified need samples only and keep round(ratio * N) rows."""
    case = clustered_case(9)
    run = _run(tmp_path / "run", case, shards=4, clusters=False)
    kept, _ = _select(run, method=method, ratio=ratio, seed=3)
    assert len(kept) == round(ratio * len(case.keys))


@pytest.mark.parametrize("inside", ["nearest", "random"])
def test_other_orders_inside_a_cluster_keep_the_quotas(ray_cluster, tmp_path, inside):
    """The order inside a cluster changes which rows stay, never how many of each cluster."""
    case = clustered_case(10, rows=100)
    run = _run(tmp_path / "run", case, shards=3)
    _select(run, ratio=0.3)
    other, _ = _select(run, ratio=0.3, options={"order_by": inside}, label=inside)
    assert len(other) == 30
    by_mmd = run.noun("selection").read_table("clusters.parquet")
    by_other = run.noun("selection", inside).read_table("clusters.parquet")
    assert by_mmd["kept"].equals(by_other["kept"])
    assert by_mmd["quota"].equals(by_mmd["kept"])


def test_rows_without_features_are_dropped_with_a_reason(ray_cluster, tmp_path):
    """A sample that extract refused stays in the output, and the budget counts all samples."""
    case = clustered_case(11)
    run = Run(str(tmp_path / "run"))
    write_samples(run, [*case.keys, "f" * 32 + "-0", "0" * 32 + "-0"], ["t"] * (len(case.keys) + 2), shards=1)
    write_features(run, case.keys, case.features, shards=1, block_dim=case.block_dim)
    write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=1)
    kept, manifest = _select(run, ratio=0.5)
    assert len(kept) == round(0.5 * (len(case.keys) + 2))
    assert manifest.metrics["reasons"]["no_features"] == 2


def test_a_second_call_finds_everything_done(ray_cluster, tmp_path):
    """The same settings give the same manifest without work; others replace it."""
    case = clustered_case(12)
    run = _run(tmp_path / "run", case, shards=2)
    first = select(run, make_config(SelectConfig, {"ratio": 0.3}))
    assert select(run, make_config(SelectConfig, {"ratio": 0.3})) == first
    assert select(run, make_config(SelectConfig, {"ratio": 0.2})).metrics["kept"] == 12


def test_a_wrong_name_or_option_is_explained(ray_cluster, tmp_path):
    """Misspellings name the nearest method and the method's options."""
    case = clustered_case(13)
    run = _run(tmp_path / "run", case, shards=1)
    with pytest.raises(UserError, match="unknown method 'coincdie'. Did you mean 'coincide'"):
        _select(run, method="coincdie")
    with pytest.raises(UserError, match="temperatur"):
        _select(run, options={"temperatur": 1})


def test_stale_inputs_are_refused(ray_cluster, tmp_path):
    """Clusters of features that were made again are an error that names the stage to rerun."""
    case = clustered_case(14)
    run = _run(tmp_path / "run", case, shards=1)
    write_features(run, case.keys, case.features[::-1] * np.float16(0.5), shards=1, block_dim=case.block_dim)
    with pytest.raises(UserError, match="made from an earlier 'features/main'.*Run `raycurate cluster .*` again"):
        _select(run)


@pytest.mark.parametrize("rows", [1, 2, 7, 245, 665_298])
def test_a_ratio_that_keeps_no_row_names_one_that_does(rows):
    """The ratio in the message keeps a row indeed."""
    with pytest.raises(UserError, match="keeps none") as caught:
        check_target(0.4 / rows, rows)
    least = float(str(caught.value).rsplit(" ", 1)[-1])
    check_target(least, rows)
    assert round(least * rows) == 1
    check_target(0.2, 0)
