"""Cells: rows by task and cluster."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raycurate.selection.cells import CellTable, add_counts, count_cells

ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "ä", ""]), st.one_of(st.none(), st.integers(0, 9))), max_size=40)


@given(rows=ROWS, cut=st.integers(0, 40))
def test_every_row_finds_its_cell(rows: list[tuple[str, int | None]], cut: int) -> None:
    """Counted in any blocks; rows of no cluster are in none, and rows of unknown cells find none."""
    table = pa.table(
        {"task": pa.array([t for t, _ in rows], pa.string()), "cluster": pa.array([c for _, c in rows], pa.int32())}
    )
    cells = CellTable.of(add_counts(count_cells(part) for part in (table.slice(cut), table.slice(0, cut))))
    assert CellTable.from_table(cells.to_table()).to_table().equals(cells.to_table())
    found = cells.index_of(table).tolist()
    for (task, cluster), place in zip(rows, found, strict=True):
        if cluster is None:
            assert place == -1
        else:
            assert (cells.tasks[cells.task_C[place]], cells.cluster_C[place]) == (task, cluster)
    assert cells.size_C.sum() == sum(cluster is not None for _, cluster in rows)
    assert sum(cells.task_rows.values()) == cells.size_C.sum()
    others = pa.table({"task": ["a", "zz", None], "cluster": pa.array([77, 1, 2], pa.int32())})
    assert cells.index_of(others).tolist() == [-1, -1, -1]
