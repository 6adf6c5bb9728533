"""Tests of raycurate.clustering.exchange: processes add up to the bits of one, and notice a lost one."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.multiprocessing as mp

from raycurate.clustering import exchange
from raycurate.clustering.exactness import row_dots, unit_centroids
from raycurate.clustering.exchange import Exchange, PeerLost, connect_store, open_store
from raycurate.clustering.partition import ArrayRows, Partition
from raycurate.clustering.repair import apply_splits, plan_splits
from raycurate.clustering.screening import Screen
from tests.clustering.clustering_cases import grid_centroids, mixture

CPU = torch.device("cpu")
CLUSTERS, DIM, STEPS = 11, 24, 6


def rows() -> torch.Tensor:
    """Rows in four groups, copies among them, so that clusters run empty and are split."""
    made = mixture(240, DIM, 4, spread=0.2)
    made[100:160] = made[0]
    return made


def first() -> torch.Tensor:
    """Centroids, three of them alike."""
    centroids = grid_centroids(rows()[:CLUSTERS].float())
    centroids[4], centroids[7] = centroids[0], centroids[0]
    return centroids


def alone() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(similarity sums, next centroids) of every iteration in one process."""
    partition, centroids, found = Partition(ArrayRows(rows()), CLUSTERS, CPU), first(), []
    for _ in range(STEPS):
        partition.step(Screen(centroids))
        dots = row_dots(partition.totals.sums_KD, centroids)
        centroids = unit_centroids(partition.totals.sums_KD, centroids)
        found.append((dots, centroids.clone()))
        apply_splits(centroids, plan_splits(partition.totals.sizes_K.tolist()))
    return found


def ranges_of(size: int) -> list[tuple[int, int]]:
    """Uneven ranges of clusters."""
    edges = [CLUSTERS * n // size for n in range(size + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def work(number: int, size: int, port: int, sizes: list[list[int]], folder: str, dies: int) -> None:
    """One process: every ``size``-th row; keeps what it found, and what it sent, in a file."""
    torch.set_num_threads(1)
    exchange.CHUNK_BYTES["cpu"] = 8 * DIM * size * 2  # two clusters of each owner at a time
    joined = Exchange(connect_store("127.0.0.1", port, size), number, ranges_of(size), CPU)
    partition, centroids, splits = Partition(ArrayRows(rows()[number::size]), CLUSTERS, CPU), first(), []
    found, sent = [], []
    changed_of = joined._changed
    joined._changed = lambda *given: [sent.append(parts := changed_of(*given)), parts][1]
    try:
        for step in range(STEPS):
            if step == 2 and number == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            partition.step(Screen(centroids))
            dots, centroids = joined.next_centroids(partition.totals, centroids, splits)
            found.append((dots, centroids.clone()))
            splits = plan_splits(sizes[step])
            apply_splits(centroids, splits)
        joined.close()
    except PeerLost as lost:
        found = str(lost)
    torch.save((found, [sum(len(part) for part in parts) for parts in sent]), f"{folder}/{number}.pt")


def sizes_of_all() -> list[list[int]]:
    """Sizes of the clusters after every iteration."""
    partition, centroids, found = Partition(ArrayRows(rows()), CLUSTERS, CPU), first(), []
    for _ in range(STEPS):
        partition.step(Screen(centroids))
        found.append(partition.totals.sizes_K.tolist())
        centroids = unit_centroids(partition.totals.sums_KD, centroids)
        apply_splits(centroids, plan_splits(found[-1]))
    return found


def together(size: int, folder: str, dies: int = -1) -> list[tuple]:
    """What each process left in its file."""
    store = open_store("127.0.0.1", size)
    context = mp.get_context("fork")
    given = (size, store.port, sizes_of_all(), folder, dies)
    processes = [context.Process(target=work, args=(number, *given)) for number in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [torch.load(f"{folder}/{number}.pt") for number in range(size) if number != dies]


@pytest.mark.parametrize("size", [2, 3])
def test_processes_find_the_bits_of_one(size, tmp_path):
    """Similarity sums and centroids of every iteration, with splits, by small chunks; less is sent in the end."""
    expected = alone()
    found = together(size, str(tmp_path))
    for step, (dots, centroids) in enumerate(expected):
        assert torch.equal(torch.cat([of[step][0] for of, _ in found]), dots), step
        for of, _ in found:
            assert torch.equal(of[step][1], centroids), step
    assert any(plan_splits(sizes) for sizes in sizes_of_all())
    sent = found[0][1]
    assert sent[0] == CLUSTERS
    assert sent[-1] < CLUSTERS


def test_a_killed_process_is_noticed_by_the_others(tmp_path):
    """Neither waits without end, and both say so."""
    found = together(3, str(tmp_path), dies=1)
    assert [type(of) for of, _ in found] == [str, str]
