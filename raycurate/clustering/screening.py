"""Which centroid is nearest: a fast GEMM, its error bound, and exact scores for the close calls.

For a row x and centroids c_k, argmax_k x.c_k = argmax_k x.(c_k - m) for any m. With m the mean centroid the vectors
v_k = c_k - m are short (features of one model share a large common part), and so is every rounding error, which is
bounded by Cauchy-Schwarz. With unit roundoff u of the GEMM's input type, a of its accumulation and f_k = v_k - fl(v_k):

    |score_k - x.v_k| <= |x| * max_k( u |v_k| + (1 + u) |f_k| + D a (1 + u) |v_k| )  =: eps      (+ u |score| on output)

A row whose runner-up scores below best - 2 eps is decided. Otherwise every candidate above that line is scored again:
in float32 where the screen was bfloat16, then, for what is still open, by exact float64 dot products (see
``exactness``), ties going to the lowest cluster. The result is the true argmax: it cannot depend on block sizes,
threads or the GEMM's kernel: a screen on a GPU forbids kernels that add in 16 bits, so parts of a split product are
added with a as well. ``fast`` takes the screen's own argmax.

Cost per row: 2 K D FLOP in the GEMM, and 2 D FLOP and about 12 D bytes for each candidate of an open row.
Limits: K * (rows of a block) scores are held at once, SCORE_BYTES bounds them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from raycurate.clustering.exactness import row_blocks, wide_blocks
from raycurate.clustering.product import Product, product_for
from raycurate.device import keep_wide_sums

MAX_ROW_NORM = 1.01
ROUNDOFF = {torch.bfloat16: 2.0**-8 / 2, torch.float32: 0.0}
ACCUMULATION = {torch.bfloat16: 2.0**-23, torch.float32: 2.0**-24}
SCORE_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
PAIR_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class Centred:
    """Centroids minus their mean in one floating type, with the bound on the error of a score."""

    vectors_KD: torch.Tensor
    error: float

    @classmethod
    def build(cls, centroids_KD: torch.Tensor, dtype: torch.dtype) -> Centred:
        """Round the centred vectors to ``dtype`` and bound the scores' error for rows of norm <= MAX_ROW_NORM."""
        num_clusters, dim = centroids_KD.shape
        mean_D = centroids_KD.mean(dim=0)
        vectors_KD = torch.empty_like(centroids_KD, dtype=dtype)
        roundoff, growth = ROUNDOFF[dtype], dim * ACCUMULATION[dtype]
        assert growth < 0.1, f"{dim} dimensions are too many for the error bound"
        error = 0.0
        for rows in wide_blocks(centroids_KD):
            exact = centroids_KD[rows].double() - mean_D.double()
            vectors_KD[rows] = exact.to(dtype)
            norms = exact.norm(dim=1)
            residuals = (exact - vectors_KD[rows].double()).norm(dim=1)
            bound = roundoff * norms + (1 + roundoff) * (residuals + 1.12 * growth * (norms + residuals))
            error = max(error, float(bound.max()))
        return cls(vectors_KD, 1.0001 * MAX_ROW_NORM * error + 1e-30)

    def margin(self, best_N: torch.Tensor) -> torch.Tensor:
        """How far below the best score the true best may hide, [N]."""
        return 1.01 * (2 * self.error + 2 * ROUNDOFF[self.vectors_KD.dtype] * best_N.abs())


class Screen:
    """Assigns blocks of float16 rows to the centroid of largest inner product."""

    def __init__(self, centroids_KD: torch.Tensor, *, precision: str = "exact", product: Product | None = None) -> None:
        """Prepare the vectors; ``product`` is the fastest one by default."""
        if centroids_KD.device.type == "cuda":
            keep_wide_sums()
        self.centroids_KD = centroids_KD
        self.precision = precision
        self.product = product or product_for(centroids_KD.device, precision)
        self.dtype = self.product.dtype
        self.coarse = Centred.build(centroids_KD, self.dtype)
        self._fine: Centred | None = None
        self._scores: torch.Tensor | None = None

    @property
    def fine(self) -> Centred:
        """The float32 vectors; made when the first close call needs them."""
        if self.dtype is torch.float32:
            return self.coarse
        if self._fine is None:
            self._fine = Centred.build(self.centroids_KD, torch.float32)
        return self._fine

    def assign(self, rows_ND: torch.Tensor, prepared_ND: torch.Tensor | None = None) -> torch.Tensor:
        """The nearest centroid of each row, int64 [N]. ``prepared_ND`` may hold the rows in the screen's type."""
        return self.nearest(rows_ND, prepared_ND)[0]

    def nearest(
        self, rows_ND: torch.Tensor, prepared_ND: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``assign``, and by how much at least each row prefers its centroid to any other, float32 [N]."""
        prepared_ND = rows_ND.to(self.dtype) if prepared_ND is None else prepared_ND
        labels_N = torch.empty(rows_ND.shape[0], dtype=torch.int64, device=rows_ND.device)
        gaps_N = torch.empty(rows_ND.shape[0], device=rows_ND.device)
        size = SCORE_BYTES[rows_ND.device.type] // (4 * self.centroids_KD.shape[0])
        for rows in row_blocks(rows_ND.shape[0], size):
            labels_N[rows], gaps_N[rows] = self._nearest_in_block(rows_ND[rows], prepared_ND[rows])
        return labels_N, gaps_N

    def _nearest_in_block(self, rows_ND: torch.Tensor, prepared_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores_NK = self._score_buffer(rows_ND.shape[0])
        self.product.fill(prepared_ND, self.coarse.vectors_KD, scores_NK)
        if scores_NK.shape[1] == 1:
            return torch.zeros_like(scores_NK[:, 0], dtype=torch.int64), torch.full_like(scores_NK[:, 0], torch.inf)
        top, labels = scores_NK.topk(2, dim=1)
        labels_N = labels[:, 0].contiguous()
        line_N = top[:, 0].float() - self.coarse.margin(top[:, 0].float())
        gaps_N = (line_N - top[:, 1].float()).clamp_(min=0.0)
        open_N = (gaps_N == 0).nonzero().ravel()
        if len(open_N) and self.precision == "exact":
            owners, clusters = (scores_NK.index_select(0, open_N).float() >= line_N[open_N, None]).nonzero().unbind(1)
            labels_N[open_N] = self._decide(rows_ND.index_select(0, open_N), owners, clusters)
        return labels_N, gaps_N

    def _score_buffer(self, num_rows: int) -> torch.Tensor:
        if self._scores is None or self._scores.shape[0] < num_rows:
            shape = (num_rows, self.centroids_KD.shape[0])
            self._scores = torch.empty(shape, dtype=self.dtype, device=self.centroids_KD.device)
        return self._scores[:num_rows]

    def _decide(self, rows_MD: torch.Tensor, owners_P: torch.Tensor, clusters_P: torch.Tensor) -> torch.Tensor:
        """Exact winners of rows whose candidates are the pairs (owner, cluster), sorted by owner then cluster."""
        if self.dtype is not torch.float32:
            scores_P = pair_dots(rows_MD, self.fine.vectors_KD, owners_P, clusters_P, torch.float32)
            best_M = _best_of(scores_P, owners_P, rows_MD.shape[0])
            kept = scores_P >= (best_M - self.fine.margin(best_M))[owners_P]
            owners_P, clusters_P = owners_P[kept], clusters_P[kept]
        winners_M = torch.full((rows_MD.shape[0],), self.centroids_KD.shape[0], device=rows_MD.device)
        counts_M = torch.bincount(owners_P, minlength=rows_MD.shape[0])
        single = counts_M[owners_P] == 1
        winners_M[owners_P[single]] = clusters_P[single]
        owners_P, clusters_P = owners_P[~single], clusters_P[~single]
        if len(owners_P):
            scores_P = pair_dots(rows_MD, self.centroids_KD, owners_P, clusters_P, torch.float64)
            ties = scores_P == _best_of(scores_P, owners_P, rows_MD.shape[0])[owners_P]
            winners_M.scatter_reduce_(0, owners_P[ties], clusters_P[ties], "amin")
        return winners_M

    def similarities(self, rows_ND: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """The exact inner product with the assigned centroid, rounded once to float32, [N]."""
        every = torch.arange(rows_ND.shape[0], device=rows_ND.device)
        return pair_dots(rows_ND, self.centroids_KD, every, labels_N, torch.float64).float()


def _best_of(scores_P: torch.Tensor, owners_P: torch.Tensor, num_owners: int) -> torch.Tensor:
    best_M = torch.full((num_owners,), float("-inf"), dtype=scores_P.dtype, device=scores_P.device)
    return best_M.scatter_reduce_(0, owners_P, scores_P, "amax")


def pair_dots(
    rows_ND: torch.Tensor,
    centroids_KD: torch.Tensor,
    owners_P: torch.Tensor,
    clusters_P: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Inner products of the pairs (row, centroid), [P] in ``dtype``; ``owners_P`` ascending. By chunks of pairs."""
    out_P = torch.empty(len(owners_P), dtype=dtype, device=rows_ND.device)
    chunk = max(64, PAIR_BYTES[rows_ND.device.type] // (dtype.itemsize * rows_ND.shape[1]))
    for pairs in row_blocks(len(owners_P), chunk):
        owners, owner_at = torch.unique_consecutive(owners_P[pairs], return_inverse=True)
        left, right, cluster_at = rows_ND.index_select(0, owners).to(dtype), centroids_KD, clusters_P[pairs]
        if right.dtype is not dtype:  # convert the centroids of these pairs only
            clusters, cluster_at = torch.unique(cluster_at, return_inverse=True)
            right = centroids_KD.index_select(0, clusters).to(dtype)
        if rows_ND.device.type == "cuda":
            out_P[pairs] = torch.linalg.vecdot(left.index_select(0, owner_at), right.index_select(0, cluster_at))
        else:
            out_P[pairs] = _sampled_dots(left, right, owner_at, cluster_at)
    return out_P


def _sampled_dots(
    left_ND: torch.Tensor, right_KD: torch.Tensor, owner_at: torch.Tensor, cluster_at: torch.Tensor
) -> torch.Tensor:
    """The entries (owner_at, cluster_at) of left @ right.T through the sampled product: no gathered copies."""
    starts = torch.searchsorted(owner_at, torch.arange(left_ND.shape[0] + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "sparse CSR is in beta"
        wanted = torch.sparse_csr_tensor(
            starts,
            cluster_at,
            torch.zeros(len(cluster_at), dtype=left_ND.dtype),
            size=(left_ND.shape[0], right_KD.shape[0]),
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(wanted, left_ND, right_KD.T, beta=0.0).values()
