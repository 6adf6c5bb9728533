"""The draw of a mixture between the two steps of `ingest`: from the hashes that the slices left to a bound a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from raycurate.config import IngestConfig
from raycurate.run.store import Noun
from raycurate.samples.mixture import Bound, bound_of, check_usable, rows_of_sources, source_name, wishes_of
from raycurate.stages.engine.shards import step_name

DRAWS = "draws.parquet"
"""Beside a parsed slice: the hashes of its rows."""


def has_bound(config: IngestConfig, file: str) -> bool:
    """Whether the source of a file may give less than all its rows."""
    if config.sources is None:
        return False
    source = config.sources[source_name(file)]
    return source.weight is not None or source.cap is not None


def write_draws(noun: Noun, number: int, draws: Sequence[np.ndarray]) -> None:
    """Leave the hashes of a slice's rows to the driver."""
    draw_N = np.concatenate([np.zeros(0, np.uint64), *draws])
    noun.write_table(step_name("parsed", number, DRAWS), pa.table({"draw": pa.array(draw_N, pa.uint64())}))


def draw_sources(
    noun: Noun, config: IngestConfig, rows: Mapping[str, int], slices: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Bound], int]:
    """The bounds of those sources that give less than they have, and the rows of all that stay.

    Args:
        noun: samples whose slices are parsed.
        config: of `ingest`.
        rows: good rows of each source.
        slices: of each source.

    Raises:
        UserError: a source of which no row can be used.
    """
    if config.sources is None:
        return {}, sum(rows.values())
    check_usable(config.sources, rows)
    wanted = rows_of_sources(rows, *wishes_of(config.sources, rows))
    bounds = {name: bound_of(_draws(noun, slices[name]), wanted[name]) for name in rows if wanted[name] < rows[name]}
    return bounds, sum(wanted.values())


def counts_by_source(
    config: IngestConfig, rows: Mapping[str, int], rejects: Mapping[str, int], kept: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """What the manifest tells of each source: rows of the samples, rows that were read, rows that were not drawn."""
    wanted = rows_of_sources(rows, *wishes_of(config.sources or {}, rows))
    return {
        "sources": {name: kept.get(name, 0) for name in rows},
        "sources_read": {name: rows[name] + rejects.get(name, 0) for name in rows},
        "sources_not_drawn": {name: rows[name] - wanted[name] for name in rows},
    }


def _draws(noun: Noun, slices: Sequence[int]) -> np.ndarray:
    tables = [noun.read_table(step_name("parsed", number, DRAWS)) for number in slices]
    return pa.concat_tables(tables)["draw"].to_numpy()
