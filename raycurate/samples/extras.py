"""Numbers that a row carries beside its conversation (ratings, sizes, marks), kept for `select --where`.

A number, a boolean or a list of numbers of any column that nothing else reads is kept under its name, a text only where
the user names its column. They travel as one JSON text a row and are no part of what the row is: its key stays the
same. `select` turns them into columns again, of one type a column: mixed numbers and texts are texts.

Bounded: `MOST` columns of a row, `MOST_VALUES` of a list, `MOST_CHARS` of a text; what is beyond is not kept.
Cost: a type check a column, one JSON text a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

MOST, MOST_VALUES, MOST_CHARS, MOST_NAME = 64, 256, 256, 100
BOOLEAN, NUMBER, NUMBERS, TEXT = "boolean", "number", "numbers", "text"
ARROW_TYPES = {BOOLEAN: pa.bool_(), NUMBER: pa.float64(), NUMBERS: pa.list_(pa.float64()), TEXT: pa.string()}


def extras_of(row: Mapping[str, Any], used: Collection[str], asked: Collection[str]) -> str | None:
    """The kept values of a row as JSON; None where there is none.

    Args:
        row: as it was read.
        used: columns that are read for something else.
        asked: columns whose texts are kept as well; they are kept also where they are used.
    """
    names = sorted(name for name in row if isinstance(name, str) and (name not in used or name in asked))
    kept: dict[str, Any] = {}
    for name in names:
        kind = kind_of(row[name])
        if kind is not None and (kind != TEXT or name in asked) and len(name) <= MOST_NAME and len(kept) < MOST:
            kept[name] = row[name]
    return json.dumps(kept, ensure_ascii=True, separators=(",", ":")) if kept else None


def kind_of(value: Any) -> str | None:
    """What kind of value can be kept, or None."""
    if isinstance(value, bool):
        return BOOLEAN
    if _is_number(value):
        return NUMBER
    if isinstance(value, str):
        return TEXT if len(value) <= MOST_CHARS and value.isprintable() else None
    if isinstance(value, list) and 0 < len(value) <= MOST_VALUES and all(_is_number(each) for each in value):
        return NUMBERS
    return None


def is_kept_type(kind: pa.DataType) -> bool:
    """Whether a column of a table can hold kept values without being asked for."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def kinds_of(texts: Iterable[str | None]) -> dict[str, str]:
    """Kept column -> kind, of many rows."""
    kinds: dict[str, str] = {}
    for text in texts:
        if text is not None:
            merge_kinds(kinds, {name: str(kind_of(value)) for name, value in json.loads(text).items()})
    return kinds


def merge_kinds(kinds: dict[str, str], more: Mapping[str, str]) -> None:
    """Add the columns of further rows: one of several kinds is a text."""
    for name, kind in more.items():
        kinds[name] = kind if kinds.get(name, kind) == kind else TEXT


def columns_of(texts: Sequence[str | None], kinds: Mapping[str, str]) -> pa.Table:
    """The kept values of rows as columns, null where a row has none."""
    rows = [{} if text is None else json.loads(text) for text in texts]
    columns = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if kind == TEXT:
            values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        columns[name] = pa.array(values, ARROW_TYPES[kind])
    return pa.table(columns)


def _is_number(value: Any) -> bool:
    """A number that a 64-bit float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)
