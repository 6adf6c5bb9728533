"""Density of a cluster: the mean Gaussian similarity of its members (COINCIDE, arXiv 2406.10995, Eq. 6).

    paper:  D = 1/(n(n-1)) sum_{p != q} k(p, q)        distinct pairs
    code:   D = 1/n^2 sum_{p, q} k(p, q)               the diagonal included, as the authors' program does
    D_code = (1 + (n - 1) D_paper) / n

A singleton has no pair; its paper density is defined as 1, the value that exact duplicates have and that the
other reading gives. Densities are ratios of integer kernel sums (`kernel.py`), so they do not depend on the
order of rows.

A cluster that is ranked in chunks (`chunks.py`) is estimated from the pairs within its chunks: membership of
a chunk is a hash, so this is an unbiased sample of all pairs. With c chunks of n/c rows it uses about 1/c of
the pairs. Cost: nothing beyond the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raycurate.selection.kernel import ONE


@dataclass(frozen=True, kw_only=True, slots=True)
class Density:
    """Kernel sums of a cluster or of one chunk of it; chunks add up with `merge_densities`.

    Attributes:
        size: rows.
        pairs: ordered pairs of distinct rows that were summed.
        pair_sum: sum of 2^31 k(p, q) over those pairs, an exact integer.
    """

    size: int
    pairs: int
    pair_sum: int

    @property
    def paper(self) -> float:
        """Mean similarity over distinct pairs; 1 where there is no pair."""
        return 1.0 if self.pairs == 0 else self.pair_sum / (self.pairs * ONE)

    @property
    def code(self) -> float:
        """Mean similarity over all pairs, the diagonal included."""
        return 1.0 if self.size == 0 else (1.0 + (self.size - 1) * self.paper) / self.size


def density_of(kernel_sums: Iterable[int]) -> Density:
    """Return the density of a kernel from its row sums in units of 2^-31 (the diagonal included)."""
    sums = [int(value) for value in kernel_sums]
    size = len(sums)
    return Density(size=size, pairs=size * (size - 1), pair_sum=sum(sums) - size * ONE)


def merge_densities(parts: Iterable[Density]) -> Density:
    """Return the density of a cluster from its chunks; the same for any order of chunks."""
    held = list(parts)
    return Density(
        size=sum(part.size for part in held),
        pairs=sum(part.pairs for part in held),
        pair_sum=sum(part.pair_sum for part in held),
    )
