"""The order of a training's rows by a number of each: easy rows first, or all kinds of rows in every step.

    value   loss of the row under the model that scored it, or minus the transferability S of its cluster
    curriculum    rows by value, ascending: low losses first, or the clusters that transfer best
    interleaved   strata (clusters; tenths of the rows by loss) spread evenly: row j of a stratum of n, shuffled, comes
                  at place (j + u) / n of the epoch, u one draw a stratum

Ties, and the rows of a stratum, are shuffled by (seed, epoch). Rows without a value come last in a curriculum, and are
a stratum of their own. Rows of one optimizer step are then put in the order of their lengths, so that its micro-batches
have rows of like length; no row changes its step for that. So the rows of every step are the same for any number of
ranks, any micro-batch, and after a restart. Source: COINCIDE names the order of training as future work; curricula by
loss are Bengio et al. 2009. Cost: a sort of the rows an epoch, 8 bytes a row. Limits: rows of a whole step that are
much longer than others cost padding where a step is one micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.run.store import Noun
from raycurate.training.data import TokenDataset, padded_rows

Kind = Literal["curriculum", "interleaved"]
TENTHS = 10
CLUSTERS_FILE = "clusters.parquet"


@dataclass(frozen=True, slots=True)
class OrderSource:
    """Where the numbers of the rows are. Small and picklable: it travels to every worker.

    Attributes:
        kind: of the order.
        noun: `row_scores` with a loss, or `clusters`, of the samples that the tokens are of.
        ranking: of those clusters, which has their transferability; None for losses.
    """

    kind: Kind
    noun: Noun
    ranking: Noun | None = None

    def values(self, dataset: TokenDataset) -> np.ndarray:
        """The value of every row, float64 [N]; NaN for one that has none."""
        if self.ranking is None:
            return dataset.joined(lambda shard, keys: _column(self.noun, shard, keys, "loss"))
        table = self.ranking.read_table(CLUSTERS_FILE)
        value_of = dict(zip(table["cluster"].to_pylist(), table["transferability_paper"].to_pylist(), strict=True))

        def read(shard: int, keys: pa.ChunkedArray) -> np.ndarray:
            cluster_N = _column(self.noun, shard, keys, "cluster").tolist()
            return np.array([-value_of.get(cluster, np.nan) for cluster in cluster_N])

        return dataset.joined(read)


def _column(noun: Noun, shard: int, keys: pa.ChunkedArray, name: str) -> np.ndarray:
    """A number of each of some rows of a shard, float64; NaN for a row that the noun lacks."""
    found = noun.read_part(shard, ["key", name])
    at = pc.index_in(keys, value_set=found["key"].combine_chunks()).combine_chunks()
    values: np.ndarray = found[name].cast(pa.float64()).take(at).to_numpy()
    return values


def ordered_rows(value_N: np.ndarray, kind: Kind, *, seed: int, epoch: int) -> np.ndarray:
    """Row numbers of an epoch, int64 [N]."""
    generator = np.random.default_rng([seed, epoch])
    shuffled_N = generator.permutation(len(value_N))
    if kind == "curriculum":
        return shuffled_N[np.argsort(value_N[shuffled_N], kind="stable")]  # NaN sorts last
    stratum_N = _strata(value_N)[shuffled_N]
    by_stratum = np.argsort(stratum_N, kind="stable")
    size_S = np.bincount(stratum_N)
    start_S = np.cumsum(size_S) - size_S
    phase_S = generator.random(len(size_S))
    own_N = stratum_N[by_stratum]
    place_N = (np.arange(len(own_N)) - start_S[own_N] + phase_S[own_N]) / size_S[own_N]
    return shuffled_N[by_stratum[np.argsort(place_N, kind="stable")]]


def _strata(value_N: np.ndarray) -> np.ndarray:
    """The stratum of each row: rows of the same value, where few values are many rows; else tenths of the rows."""
    known_N = ~np.isnan(value_N)
    names, own_N = np.unique(value_N[known_N], return_inverse=True)
    if 2 * len(names) > known_N.sum():
        own_N = own_N * TENTHS // max(len(names), 1)
    stratum_N = np.full(len(value_N), own_N.max(initial=-1) + 1, dtype=np.int64)
    stratum_N[known_N] = own_N
    return stratum_N


def ordered_epoch(
    lengths_N: np.ndarray,
    value_N: np.ndarray,
    kind: Kind,
    *,
    group_rows: int,
    step_rows: int,
    seed: int,
    epoch: int,
    group_by_length: bool,
) -> np.ndarray:
    """As `data.epoch_order`: padded with N to a multiple of `group_rows`; a step has `step_rows` rows."""
    rows = len(lengths_N)
    order = np.full(padded_rows(rows, group_rows), rows, dtype=np.int64)
    order[:rows] = ordered_rows(value_N, kind, seed=seed, epoch=epoch)
    if group_by_length:
        lengths = np.append(lengths_N, 0).astype(np.int64)
        for start in range(0, len(order), step_rows):
            step = order[start : start + step_rows]
            order[start : start + step_rows] = step[np.argsort(-lengths[step], kind="stable")]
    return order
