"""The k nearest neighbours of every row by cosine: a graph of N x k ids, for the methods that walk on it.

faiss finds candidates (a few more than k), which are then compared again in exact arithmetic (`exact.py`) and sorted
by (cosine, row number): close calls do not depend on threads or BLAS. Up to `exact_rows` rows the search is exact
(`IndexFlatIP`, 2 N^2 D FLOP); beyond, an inverted file (sqrt(N) lists, 8 probed) finds most of them with about
20 N^1.5 D FLOP: 99.96% for the 50,325 rows of the demo, above 99.8% for 25,000 to 100,000 rows around 300 centers, but
a third or less for rows without any structure. It holds float16, which finds the same neighbours as float32 in three
quarters of the time. The lists are made from at most 64 rows each in four rounds: twice the lists from four times the
rows found as many neighbours, and took four times as long to make. The rows of a list are searched one after the other,
while the lists near it are in the cache: half the time of the rows' own order. Not HNSW: its graph depends on the order
in which threads insert.

The rows are searched in blocks, and a part of the graph is every n-th block. Each part needs all rows and an index of
its own (2 N^1.5 D FLOP, a tenth of the time), and comes out the same for any number of parts.

Memory of a part: 2 N D for the rows, 4 N D for their float32 copy, 2 N D for the inverted file (4 N D for up to
20,000 rows), 12 N k for the graph, and 32 MiB for the blocks in search.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.selection.exact import blocks, on_grid, squared_norms

EXACT_ROWS = 20_000
SPARE = 8
PROBES = 8
ROUNDS = 4
ROWS_PER_LIST = 64
SEARCH_ROWS = 4096
GATHER_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """The neighbours of each row, nearest first.

    Attributes:
        ids_NK: row numbers, int32 [N, K]; -1 where there is none, which an inverted file can leave.
        cosine_NK: their cosines, float64 [N, K]; 0 where there is none.
    """

    ids_NK: NDArray[np.int32]
    cosine_NK: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FoundPart:
    """The neighbours of some rows.

    Attributes:
        rows_B: the numbers of the rows, int64 [B].
        ids_BK: as in `Neighbours`, int32 [B, K].
        cosine_BK: as in `Neighbours`, float64 [B, K].
    """

    rows_B: NDArray[np.int64]
    ids_BK: NDArray[np.int32]
    cosine_BK: NDArray[np.float64]

    @staticmethod
    def of(found: Sequence[FoundPart]) -> FoundPart:
        """All of them together."""
        return FoundPart(
            np.concatenate([part.rows_B for part in found]),
            np.concatenate([part.ids_BK for part in found]),
            np.concatenate([part.cosine_BK for part in found]),
        )


def bytes_per_row(dim: int, count: int) -> int:
    """Return the peak memory of a search over the number of its rows, in bytes; an inverted file takes 2 D less."""
    return 10 * dim + 12 * count


def search_part(
    features_ND: NDArray[Any], count: int, part: int = 0, parts: int = 1, *, exact_rows: int = EXACT_ROWS
) -> FoundPart:
    """Return up to `count` neighbours of the rows of one part; ties go to the lower row number.

    A row is not its own neighbour. Rows of length zero have cosine 0 with everything.
    """
    rows = features_ND.shape[0]
    count = max(0, min(count, rows - 1))
    found = [FoundPart(np.empty(0, dtype=np.int64), np.empty((0, count), dtype=np.int32), np.empty((0, count)))]
    length_N = np.sqrt(squared_norms(features_ND))
    length_N[length_N == 0] = 1.0
    units_ND = features_ND.astype(np.float32)
    units_ND /= length_N[:, None].astype(np.float32)
    wanted = min(rows, count + 1 + SPARE)
    step = max(1, GATHER_BYTES // (8 * max(1, wanted * features_ND.shape[1])))
    for rows_B, found_BC in _candidates(units_ND, wanted, part, parts, exact_rows):
        for block in blocks(len(rows_B), step):
            own_B = rows_B[block]
            found.append(FoundPart(own_B, *_rescored(features_ND, length_N, found_BC[block], own_B, count)))
    return FoundPart.of(found)


def join_parts(found: Sequence[FoundPart]) -> Neighbours:
    """Return the graph of which these are all the parts."""
    whole = FoundPart.of(found)
    ids_NK, cosine_NK = np.empty_like(whole.ids_BK), np.empty_like(whole.cosine_BK)
    ids_NK[whole.rows_B], cosine_NK[whole.rows_B] = whole.ids_BK, whole.cosine_BK
    return Neighbours(ids_NK=ids_NK, cosine_NK=cosine_NK)


def _candidates(
    units_ND: NDArray[np.float32], wanted: int, part: int, parts: int, exact_rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield row numbers [B] with the numbers of the `wanted` rows that faiss finds nearest, [B, wanted], of a part."""
    rows = units_ND.shape[0]
    if rows <= exact_rows:
        index, order_N = _flat(units_ND), np.arange(rows)
    else:
        index = _inverted_file(units_ND)
        order_N = _list_order(index)
    for block in itertools.islice(blocks(rows, SEARCH_ROWS), part, None, parts):
        rows_B = order_N[block]
        yield rows_B, index.search(units_ND[rows_B], wanted)[1]


def _flat(units_ND: NDArray[np.float32]) -> Any:
    """Return the index that compares with every row."""
    import faiss

    index = faiss.IndexFlatIP(units_ND.shape[1])
    index.add(units_ND)
    return index


def _inverted_file(units_ND: NDArray[np.float32]) -> Any:
    """Return the index that compares with the rows of the nearest lists."""
    import faiss

    rows, dim = units_ND.shape
    lists, kind, by_residual = int(rows**0.5), faiss.ScalarQuantizer.QT_fp16, False
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, lists, kind, faiss.METRIC_INNER_PRODUCT, by_residual
    )
    index.cp.seed = 1234
    index.cp.niter = ROUNDS
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = ROWS_PER_LIST
    index.train(units_ND)
    index.add(units_ND)
    index.nprobe = PROBES
    return index


def _list_order(index: Any) -> NDArray[np.int64]:
    """Return the row numbers list by list, int64 [N]."""
    import faiss

    lists = index.invlists
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    return np.concatenate([faiss.rev_swig_ptr(lists.get_ids(n), size) for n, size in enumerate(sizes) if size])


def _rescored(
    features_ND: NDArray[Any],
    length_N: NDArray[np.float64],
    found_BC: NDArray[np.int64],
    own_B: NDArray[np.int64],
    count: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the nearest `count` of the candidates of rows `own_B`, by exact cosines."""
    valid_BC = (found_BC >= 0) & (found_BC != own_B[:, None])
    ids_BC = np.where(valid_BC, found_BC, 0)
    left_BD = on_grid(features_ND[own_B])
    right_BCD = on_grid(features_ND[ids_BC])
    cosine_BC = np.einsum("bd,bcd->bc", left_BD, right_BCD) / (length_N[own_B][:, None] * length_N[ids_BC])
    order_BC = np.lexsort((ids_BC, -cosine_BC, ~valid_BC), axis=1)[:, :count]
    kept_BK = np.take_along_axis(valid_BC, order_BC, axis=1)
    ids_BK = np.where(kept_BK, np.take_along_axis(ids_BC, order_BC, axis=1), -1)
    cosine_BK = np.where(kept_BK, np.take_along_axis(cosine_BC, order_BC, axis=1), 0.0)
    return ids_BK.astype(np.int32), cosine_BK
