"""How alike the kept rows are, beside a random draw (COINCIDE, appendix E): mean cosine of two rows.

    mean over pairs i != j of x_i . x_j = (|sum x|^2 - sum |x|^2) / (n (n - 1))

Of a random draw of any size the expected mean is that of all rows, so nothing is drawn. Within clusters the pairs are
those of one cluster, for the clusters of the gallery.

Cost: one pass over the features, 4 D operations a row; 32 D bytes for each cluster. Features of more than
`FEATURE_BYTES` are read for so many shards as fit, drawn by the seed, and the page says of how many rows it speaks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycurate.features.rows import features_of_table
from raycurate.run.store import Noun, Run

FEATURE_BYTES = 2 << 30
BLOCK_ROWS = 2048
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alike:
    """Mean cosine of two rows: those kept, and all; None where there are less than two."""

    kept: float | None
    all: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class Diversity:
    """Of how many rows it speaks, over all pairs, and within clusters."""

    rows: int
    of: int
    overall: Alike
    within: dict[int, Alike]


class PairSums:
    """Sums of unit rows by group, for the mean cosine of two of a group."""

    def __init__(self, groups: int, dim: int) -> None:
        self._sum_GD = np.zeros((groups, dim))
        self._square_G, self._count_G = np.zeros(groups), np.zeros(groups, dtype=np.int64)
        self.last = groups - 1

    def add(self, rows_ND: Floats, group_N: NDArray[np.int64]) -> None:
        """Take in rows; those of a negative group are left out."""
        for group in np.unique(group_N[group_N >= 0]):
            own_ND = rows_ND[group_N == group]
            self._sum_GD[group] += own_ND.sum(axis=0)
            self._square_G[group] += float(np.einsum("nd,nd->", own_ND, own_ND))
            self._count_G[group] += len(own_ND)

    def mean(self, group: int) -> float | None:
        """The mean cosine of two different rows of a group."""
        count = int(self._count_G[group])
        if count < 2:
            return None
        whole = float(self._sum_GD[group] @ self._sum_GD[group])
        return (whole - float(self._square_G[group])) / (count * (count - 1))

    def count(self, group: int) -> int:
        """Rows of a group."""
        return int(self._count_G[group])


def diversity_of(
    run: Run, selection: Noun, features: str | None, clusters: Sequence[int], seed: int
) -> Diversity | None:
    """How alike kept rows are; None where the features that the clusters were made of are gone.

    Args:
        run: of the selection.
        selection: with `cluster` and `kept` of each row.
        features: their label.
        clusters: to look into.
        seed: of the shards, where not all are read.
    """
    noun = run.noun("features", features) if features is not None else None
    manifest = noun.manifest() if noun is not None else None
    if noun is None or manifest is None or not manifest.rows_out:
        return None
    shards = _shards(noun, min(manifest.shards, selection.require("select").shards), seed)
    places = {cluster: place for place, cluster in enumerate(clusters)}
    sums: tuple[PairSums, PairSums] | None = None
    for shard in shards:
        rows = selection.read_part(shard, ["key", "cluster", "kept"])
        table = noun.read_part(shard, ["key", "features"])
        at = pc.index_in(table["key"], value_set=rows["key"]).combine_chunks()
        found_N = np.asarray(at.is_valid())
        own = rows.take(pc.fill_null(at, 0))
        kept_N = np.asarray(own["kept"].to_numpy(), dtype=bool) & found_N
        group_N = np.array([places.get(cluster, -1) for cluster in own["cluster"].to_pylist()], dtype=np.int64)
        group_N[~found_N] = -1
        features_ND = features_of_table(table)
        if sums is None:
            size = (len(clusters) + 1, features_ND.shape[1])
            sums = (PairSums(*size), PairSums(*size))
        _add(sums, features_ND, group_N, (found_N, kept_N))
    assert sums is not None, "at least one shard"
    whole, kept = sums
    last = len(clusters)
    found = {c: Alike(kept.mean(p), whole.mean(p), whole.count(p)) for c, p in places.items()}
    overall = Alike(kept.mean(last), whole.mean(last), whole.count(last))
    return Diversity(whole.count(last), manifest.rows_out, overall, found)


def _shards(noun: Noun, shards: int, seed: int) -> list[int]:
    """All shards, or as many drawn ones as `FEATURE_BYTES` hold, at least one."""
    order = sorted(range(shards), key=lambda shard: random.Random(f"{seed} {shard}").random())
    sizes = {shard: record.num_bytes for shard, record in noun.records().items()}
    taken: list[int] = []
    left = FEATURE_BYTES
    for shard in order:
        left -= sizes.get(shard, 0)
        if left < 0 and taken:
            break
        taken.append(shard)
    return sorted(taken)


def _add(
    sums: tuple[PairSums, PairSums],
    features_ND: NDArray[np.float16],
    group_N: NDArray[np.int64],
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    """One shard by blocks: every row in its group and in the last one, which is of all rows."""
    for start in range(0, len(features_ND), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        wide_ND = features_ND[block].astype(np.float64)
        norm_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
        wide_ND /= np.where(norm_N1 > 0, norm_N1, 1.0)
        for each, mask_N in zip(sums, masks, strict=True):
            own_N = np.where(mask_N[block], group_N[block], -1)
            each.add(wide_ND, own_N)
            each.add(wide_ND, np.where(mask_N[block], each.last, -1))
