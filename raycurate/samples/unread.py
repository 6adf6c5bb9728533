"""Which columns of rows no rule reads: named once per source, so that nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from raycurate.samples.extras import TEXT, kind_of
from raycurate.samples.parse_task import COLUMNS as TASK_COLUMNS
from raycurate.samples.parse_turns import WEIGHT_FIELDS
from raycurate.samples.tables import TURN_FIELDS, used_columns
from raycurate.samples.unsupported import COLUMNS, is_nothing

READ_FIELDS = frozenset({"id", "image", "images", "system", *TURN_FIELDS, *COLUMNS, *TASK_COLUMNS})
TURN_KEYS = frozenset({"from", "role", "value", "content", "user", "assistant", *WEIGHT_FIELDS, *COLUMNS})
MOST_NAMES = 200
"""Further names are counted as one: rows from outside may have any number of columns."""
FURTHER = "further columns"


class UnreadColumns:
    """Counts rows by the columns that they have and no rule reads."""

    def __init__(self, read: Iterable[str] = (), columns: Mapping[str, str] | None = None) -> None:
        """`read`: further columns that are read; `columns`: of a table, as the user names them."""
        self._read, self._columns = READ_FIELDS | frozenset(read), columns or {}
        self.rows: Counter[str] = Counter()

    def count(self, row: Any) -> None:
        """Count a raw row. An empty value is nothing that could be left out, and numbers are kept beside the row."""
        if not isinstance(row, Mapping):
            return
        read = self._read | used_columns(row, self._columns)
        names = [str(name) for name in row if name not in read and not is_nothing(row[name])]
        names = [name for name in names if kind_of(row.get(name)) in (None, TEXT)]
        for field in TURN_FIELDS:
            turns = row.get(field)
            if isinstance(turns, list):
                unread = [turn for turn in turns if isinstance(turn, dict) and not turn.keys() <= TURN_KEYS]
                names += {f"{field}[].{key}" for turn in unread for key in turn.keys() - TURN_KEYS}
        for name in names:
            self.rows[name[:100] if name in self.rows or len(self.rows) < MOST_NAMES else FURTHER] += 1


def lines_of(rows: Mapping[str, int]) -> list[str]:
    """What to say of the columns that were not read, the most frequent first."""
    ordered = sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    return [f"not read: {name} in {count:,} rows" for name, count in ordered]
