"""k-means on a GPU: the labels, sums and centroids of a CPU, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycurate.clustering import KMeansSettings, spherical_kmeans
from raycurate.clustering.exactness import row_dots, unit_centroids
from raycurate.clustering.guards import check_rows, near_twins
from raycurate.clustering.kmeans import choose_seeds
from raycurate.clustering.local_rows import LocalRows
from raycurate.clustering.partition import ArrayRows, Partition
from raycurate.clustering.product import BFLOAT16, FLOAT32
from raycurate.clustering.projection import Projection
from raycurate.clustering.repair import apply_splits, plan_splits
from raycurate.clustering.screening import ROUNDOFF, Centred, Screen
from raycurate.clustering.seeding import spread_out
from raycurate.clustering.sums import ClusterSums
from raycurate.errors import UserError
from tests.clustering.clustering_cases import grid_centroids, mixture

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.bfloat16]
PRODUCTS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
# Few rows against long vectors and many clusters is where cuBLAS splits a product over K.
SHAPES = [(3000, 300, 256), (1, 1, 8), (7, 2, 33), (50, 1000, 20480), (300, 500, 20480), (120, 4000, 2048)]


def exact_labels(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The lowest cluster of the largest float64 inner product, on the CPU."""
    scores = rows.double() @ centroids.double().T
    best = scores == scores.max(dim=1, keepdim=True).values
    return torch.where(best, torch.arange(len(centroids)), len(centroids)).min(dim=1).values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_and_similarities_are_the_cpus(device, shape, dtype):
    """The true argmax for shapes of whole and of left-over blocks; similarities have the same bits."""
    num_rows, num_clusters, dim = shape
    rows = mixture(num_rows, dim, 3, spread=0.2)
    centroids = grid_centroids(mixture(num_clusters, dim, 3, seed=1, spread=0.2))
    screen = Screen(centroids.to(device), product=PRODUCTS[dtype])
    found = screen.assign(rows.to(device))
    expected = exact_labels(rows, centroids)
    assert torch.equal(found.cpu(), expected)
    similarities = screen.similarities(rows.to(device), found)
    assert torch.equal(similarities.cpu(), Screen(centroids).similarities(rows, expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(300, 1000, 20480), (50, 10000, 2048), (64, 128, 20480)])
def test_no_score_is_further_off_than_the_bound(device, shape, dtype):
    """Whatever kernel takes the product, split or not."""
    num_rows, num_clusters, dim = shape
    rows, centroids = mixture(num_rows, dim, 3), grid_centroids(mixture(num_clusters, dim, 3, seed=2))
    centred = Centred.build(centroids.to(device), dtype)
    scores = (rows.to(device, dtype) @ centred.vectors_KD.T).double()
    exact = rows.to(device).double() @ (centroids.double() - centroids.mean(dim=0).double()).T.to(device)
    slack = ROUNDOFF[dtype] * 1.01 * scores.abs()
    assert bool(((scores - exact).abs() <= centred.error + slack).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_and_exact_ties_are_decided_alike(device, dtype):
    """Centroids one grid step apart are told apart, equal ones go to the lowest cluster."""
    rows = mixture(200, 40, 1, spread=1.0)
    centroids = grid_centroids(rows[:1].float()).repeat(14, 1)
    for k in range(1, 12):
        centroids[k, k] += (-1) ** k * 2.0**-26
    found = Screen(centroids.to(device), product=PRODUCTS[dtype]).assign(rows.to(device)).cpu()
    assert torch.equal(found, exact_labels(rows, centroids))
    assert len(found.unique()) > 1


def test_sums_of_moving_rows_are_the_cpus(device):
    """Float64 atomics in any order give the bits of the runs on a CPU."""
    rows = mixture(5000, 96, 4)
    rng = np.random.default_rng(0)
    ours, theirs = ClusterSums(7, 96, device), ClusterSums(7, 96, torch.device("cpu"))
    before = torch.full((5000,), -1)
    for _ in range(3):
        after = torch.from_numpy(rng.integers(0, 7, 5000))
        for part in torch.from_numpy(rng.permutation(5000)).split(1700):
            theirs.move(rows[part], before[part], after[part], float(rows.abs().max()))
            at = part.to(device)
            ours.move(rows.to(device)[at], before.to(device)[at], after.to(device)[at], float(rows.abs().max()))
        before = after
    assert torch.equal(ours.sums_KD.cpu(), theirs.sums_KD)
    assert torch.equal(ours.sizes_K.cpu(), theirs.sizes_K)


@pytest.mark.parametrize("cached", [0, 700, 2000])
def test_local_rows_are_the_same_on_the_device(device, tmp_path, cached):
    """Blocks and single rows, from the device's cache, the file, and both."""
    rows = mixture(2000, 64, 3)
    local = LocalRows(2000, 64, cache_bytes=cached * 128, device=device, folder=str(tmp_path))
    for part in rows.split(333):
        local.append(part, float(part.abs().max()))
    for start, block in local.blocks(256):
        assert block.device.type == device.type
        assert torch.equal(block.cpu(), rows[start : start + len(block)])
    wanted = np.array([1999, 0, 700, 699, 3, 3])
    assert torch.equal(local.take(wanted).cpu(), rows[wanted])
    local.close()


def test_steps_of_a_partition_are_the_cpus(device, tmp_path):
    """Labels, counts of moves and sums over six steps, with rows that are not scored again."""
    rows = mixture(6000, 128, 12, spread=0.3)
    centroids = grid_centroids(rows[:24].float())
    local = LocalRows(6000, 128, cache_bytes=3000 * 256, device=device, folder=str(tmp_path))
    local.append(rows, float(rows.abs().max()))
    ours = Partition(local, 24, device, 500)
    theirs = Partition(ArrayRows(rows), 24, torch.device("cpu"))
    for _ in range(6):
        on_device = centroids.to(device)
        moved = ours.step(Screen(on_device))
        assert moved == theirs.step(Screen(centroids))
        assert torch.equal(ours.labels_N.cpu(), theirs.labels_N)
        assert torch.equal(ours.totals.sums_KD.cpu(), theirs.totals.sums_KD)
        dots = row_dots(ours.totals.sums_KD, on_device).cpu()
        assert torch.equal(dots, row_dots(theirs.totals.sums_KD, centroids))
        following = unit_centroids(ours.totals.sums_KD, on_device)
        centroids = unit_centroids(theirs.totals.sums_KD, centroids)
        assert torch.equal(following.cpu(), centroids)


@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_first_centroids_are_the_cpus(device, init):
    """Hashes choose; distances of k-means++ are exact."""
    rows = mixture(1500, 64, 5)
    settings = KMeansSettings(clusters=12, init=init)
    found = choose_seeds(ArrayRows(rows.to(device)), None, settings)
    assert torch.equal(found.cpu(), choose_seeds(ArrayRows(rows), None, settings))


def test_k_means_plus_plus_picks_are_the_cpus(device):
    """On rows with repeats."""
    rows = mixture(400, 33, 4)
    rows[200:] = rows[:200]
    hashes = np.random.default_rng(0).integers(0, 2**63, 400).astype(np.uint64)
    assert spread_out(rows.to(device), hashes, 60) == spread_out(rows, hashes, 60)


def test_repaired_clusters_are_the_cpus(device):
    """Both halves of a split cluster."""
    centroids = grid_centroids(mixture(6, 40, 3))
    splits = plan_splits([10, 0, 5, 0, 90, 0])
    found = centroids.to(device)
    apply_splits(found, splits)
    apply_splits(centroids, splits)
    assert torch.equal(found.cpu(), centroids)


def test_projected_rows_are_the_cpus(device):
    """Float64 holds the projection without rounding."""
    rows = mixture(500, 5000, 3)
    found = Projection(5000, 64, 5, device)(rows.to(device))
    assert torch.equal(found.cpu(), Projection(5000, 64, 5, torch.device("cpu"))(rows))


def test_bad_rows_and_twins_are_found(device):
    """NaN and zero rows are refused, near twins counted, as on a CPU."""
    rows = mixture(300, 64, 3)
    assert check_rows(rows.to(device)) == check_rows(rows)
    for value in (float("nan"), 0.0):
        broken = rows.clone()
        broken[41] = value
        with pytest.raises(UserError, match="row 41"):
            check_rows(broken.to(device))
    centroids = grid_centroids(torch.cat([rows[:40], rows[:5]]).float())
    assert near_twins(centroids.to(device)) == near_twins(centroids)


@pytest.mark.parametrize(
    "settings",
    [
        {"clusters": 20},
        {"clusters": 20, "init": "kmeans++"},
        {"clusters": 20, "project": 32},
        {"clusters": 300, "iterations": 4, "tolerance": 0.0},
        {"clusters": 1},
    ],
)
def test_a_whole_fit_is_the_cpus(device, settings):
    """Labels, sizes, centroids, similarities and the history, empty clusters included."""
    rows = mixture(3000, 192, 15, spread=0.3)
    rows[2000:2600] = rows[:600]
    found = spherical_kmeans(rows.to(device), KMeansSettings(**settings))
    expected = spherical_kmeans(rows, KMeansSettings(**settings))
    for name in ("labels_N", "sizes_K", "centroids_KD", "similarities_N"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.history == expected.history
    assert found.twins == expected.twins


def test_fast_loses_next_to_nothing(device):
    """The screen's own argmax, without rescoring."""
    rows, centroids = mixture(1000, 256, 5), grid_centroids(mixture(50, 256, 5, seed=2))
    labels = Screen(centroids.to(device), precision="fast", product=BFLOAT16).assign(rows.to(device)).cpu()
    scores = rows.double() @ centroids.double().T
    lost = scores.max(dim=1).values - scores.gather(1, labels[:, None])[:, 0]
    assert float(lost.max()) < 0.02


def test_products_keep_wide_sums(device):
    """What the bounds assume is set where the device is chosen, and where a screen is made."""
    matmul = torch.backends.cuda.matmul
    assert not matmul.allow_bf16_reduced_precision_reduction
    assert torch.get_float32_matmul_precision() == "highest"
    if device.type == "cuda":
        matmul.allow_bf16_reduced_precision_reduction = True
        Screen(grid_centroids(mixture(4, 16, 2)).to(device))
        assert not matmul.allow_bf16_reduced_precision_reduction
