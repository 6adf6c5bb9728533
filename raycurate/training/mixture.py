"""Which rows a training has: all rows of a source, or so many of each task or cluster, drawn alike for every training.

    group g: its rows by h(seed, key), h = blake2b-64, ties by key
    part   : rows skip .. skip + n_g of that order, for every group g that it names

A row's place depends on the seed and its key only: with one seed a small draw lies inside a larger one, trainings that
draw alike share their rows, and a draw with `skip` has no row of one that ends where it begins.

Cost: one hash (about 1 us) and 16 bytes per row of the source while the rows are chosen; a sort of each group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycurate.errors import UserError


class MixturePart(BaseModel):
    """Rows of one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: str = Field("main", description="label of the samples")
    rows: dict[str, int] | None = Field(None, description="task (or cluster) -> rows; null: all rows")
    skip: int = Field(0, ge=0, description="of each group, leave out so many rows first")
    clusters: str | None = Field(None, description="label of the clusters whose numbers `rows` names; null: tasks")

    @model_validator(mode="after")
    def _check_rows(self) -> MixturePart:
        for group, count in (self.rows or {}).items():
            if count < 1:
                raise ValueError(f"rows of '{group}' is {count}; it must be at least 1, or be left out")
        if self.rows is not None and not self.rows:
            raise ValueError("rows names no group; null takes all rows")
        if self.rows is None and (self.skip or self.clusters is not None):
            raise ValueError("skip and clusters need rows, how many of each group")
        return self


def choose_rows(
    groups: Sequence[str | None], keys: Sequence[str], part: MixturePart, *, seed: int, where: str
) -> NDArray[np.int64]:
    """Row numbers of a part, ascending, int64.

    Args:
        groups: the task or cluster of each row of the source; None is in no group.
        keys: the rows' keys.
        part: with `rows`.
        seed: of the order.
        where: the source, for messages.

    Raises:
        UserError: a group with fewer rows than asked.
    """
    assert part.rows is not None, "a part of all rows needs no choice"
    members: dict[str, list[int]] = {group: [] for group in part.rows}
    for number, group in enumerate(groups):
        if group in members:
            members[group].append(number)
    chosen = []
    for group, numbers in members.items():
        wanted = part.rows[group]
        if len(numbers) < part.skip + wanted:
            raise UserError(
                f"'{group}' of {where} has {len(numbers)} rows that can be trained on; {wanted} are asked for"
                f"{f' after the first {part.skip}' if part.skip else ''}. Ask for fewer."
            )
        ordered = sorted(numbers, key=lambda n: (row_hash(keys[n], seed), keys[n]))
        chosen.append(np.array(ordered[part.skip : part.skip + wanted], dtype=np.int64))
    return np.sort(np.concatenate(chosen))


def row_hash(key: str, seed: int) -> int:
    """The place of a key in the order of a seed, 64 bits."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode(), person=b"raycurate-rows")
    return int.from_bytes(digest.digest(), "big")


def mixture_rows(parts: Sequence[MixturePart], sizes: Mapping[str, int]) -> int:
    """How many rows parts have together; `sizes` are the rows of each source."""
    return sum(sizes[part.samples] if part.rows is None else sum(part.rows.values()) for part in parts)
