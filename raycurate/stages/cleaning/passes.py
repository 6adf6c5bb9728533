"""One pass of `dedup`: bring the rows of each group together, find its copies, and send word back to their shards.

    rows that still stay --map: a hash of what a group has in common--> buckets --reduce: copies of each group--> marks

A pass sees only the rows that every pass before it let stay. Groups are whole and disjoint within a pass, so each row
that goes is like a row that stays in that pass; where that one goes in a later pass it hands its rows on
(`final_marks`). The order of passes is fixed, and within a group that of the keys: the marks depend on the rows only.

Cost: what a row carries is written and read once a pass. Memory of a task: one bucket, and one tile of similarities.
Rows that stood for others and went later are read whole by the last step: 150 bytes each, a few in a thousand.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.cleaning.copies import Copies
from raycurate.run.store import Noun
from raycurate.stages.cleaning.marks import MARKS_SCHEMA, of_keys
from raycurate.stages.engine.shards import resumable_steps, step_name
from raycurate.stages.engine.shuffle import read_buckets, sort_table, write_bucket_file

WORD_SCHEMA = pa.schema([*MARKS_SCHEMA, ("shard", pa.int32())])
"""What a pass says of a row: its mark, or, without a reason, that it stands for others."""
Columns = dict[str, pa.ChunkedArray]


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to be a copy.

    Attributes:
        name: of its files.
        reason: of the marks.
        rows: the rows of a shard with `key`, `source_id`, `group` (uint64) and what `copies` compares.
        copies: who stands for whom among the rows of a group, in the order of keys.
        measure: further counts of a group, added up.
    """

    name: str
    reason: str
    rows: Callable[[int], pa.Table]
    copies: Callable[[pa.Table], Copies]
    measure: Callable[[pa.Table], dict[str, int]] | None = None


def run_pass(
    noun: Noun, one: Pass, before: Sequence[Pass], *, shards: int, buckets: int, max_tasks: int
) -> dict[str, int]:
    """Make the marks of a pass, resumed where it stopped; how many, of how many groups, and what else it counts."""
    scatter = functools.partial(_scatter, noun, one, [each.name for each in before], buckets)
    for _ in resumable_steps(noun, f"{one.name}-rows", scatter, [(s,) for s in range(shards)], max_tasks=max_tasks):
        pass
    compare = functools.partial(_compare, noun, one, shards)
    total: Counter[str] = Counter()
    calls = [(bucket,) for bucket in range(buckets)]
    for _, found in resumable_steps(noun, f"{one.name}-words", compare, calls, max_tasks=max_tasks):
        total.update(found)
    return dict(total)


def _scatter(noun: Noun, one: Pass, before: list[str], buckets: int, number: int, shard: int) -> Any:
    """Map task: the rows of a shard that still stay, by group."""
    rows = one.rows(shard)
    words = words_of_shard(noun, before, buckets, shard)
    gone = words.filter(words["reason"].is_valid())["key"].combine_chunks()
    heads = words.filter(words["reason"].is_null())["key"].combine_chunks()
    rows = rows.filter(pc.invert(pc.is_in(rows["key"], value_set=gone)))
    rows = rows.append_column("head", pc.is_in(rows["key"], value_set=heads))
    rows = rows.append_column("shard", pa.array(np.full(rows.num_rows, shard, dtype=np.int32)))
    bucket_N = (rows["group"].to_numpy() % np.uint64(buckets)).astype(np.int64)
    write_bucket_file(noun.uri_of(step_name(f"{one.name}-rows", number, "arrow")), rows, bucket_N)
    return {"rows": rows.num_rows}


def _compare(noun: Noun, one: Pass, shards: int, number: int, bucket: int) -> dict[str, int]:
    """Reduce task: the copies of every group of a bucket, word of them by shard."""
    uris = [noun.uri_of(step_name(f"{one.name}-rows", shard, "arrow")) for shard in range(shards)]
    rows = sort_table(read_buckets(uris, bucket, bucket + 1), "group", "key").combine_chunks()
    told, moved = [WORD_SCHEMA.empty_table()], [WORD_SCHEMA.empty_table()]
    counts = Counter({"marked": 0, "groups": 0})
    for group in _groups(rows):
        if one.measure is not None:
            counts.update(one.measure(group))
        words = _words(group, one.copies(group), one.reason)
        if words.num_rows:
            counts["groups"] += 1
            told.append(words)
            went = words.filter(words["reason"].is_valid())
            heads = group.filter(group["head"])["key"].combine_chunks()
            moved.append(went.filter(pc.is_in(went["key"], value_set=heads)))
    table = pa.concat_tables(told)
    write_bucket_file(noun.uri_of(step_name(f"{one.name}-words", number, "arrow")), table, table["shard"].to_numpy())
    noun.write_table(step_name(f"{one.name}-words", number, "moved.parquet"), pa.concat_tables(moved))
    counts["marked"] = table.num_rows - table["reason"].null_count
    return dict(counts)


def _groups(rows: pa.Table) -> Iterator[pa.Table]:
    """The runs of rows of one group that have two rows or more."""
    group_N = rows["group"].to_numpy()
    starts = np.flatnonzero(np.diff(group_N, prepend=group_N[:1] + np.uint64(1)))
    for start, end in zip(starts.tolist(), np.append(starts, len(group_N))[1:].tolist(), strict=True):
        if end - start > 1:
            yield rows.slice(start, end - start)


def _words(group: pa.Table, made: Copies, reason: str) -> pa.Table:
    """The marks of the rows that go, and a row without a reason of each that stands for others."""
    gone = np.flatnonzero(made.like_N >= 0)
    heads = np.unique(made.like_N[gone])
    like = group.take(pa.array(made.like_N[gone]))
    keys, head_keys = group["key"].take(pa.array(gone)), group["key"].take(pa.array(heads))
    nulls, text = len(heads), pa.string()

    def joined(of_gone: Any, of_heads: Any) -> pa.ChunkedArray:
        return pa.chunked_array([*_chunks(of_gone), *_chunks(of_heads)])

    columns = {
        "key": joined(keys, head_keys),
        "source_id": joined(group["source_id"].take(pa.array(gone)), group["source_id"].take(pa.array(heads))),
        "reason": joined(pa.array([reason] * len(gone), text), pa.nulls(nulls, text)),
        "similarity": joined(pa.array(made.similarity_N[gone]), pa.nulls(nulls, pa.float64())),
        "like": joined(like["key"], pa.nulls(nulls, text)),
        "like_source_id": joined(like["source_id"], pa.nulls(nulls, text)),
        "group": joined(like["key"], head_keys),
        "shard": joined(group["shard"].take(pa.array(gone)), group["shard"].take(pa.array(heads))),
    }
    return pa.table(columns, schema=WORD_SCHEMA)


def _chunks(values: Any) -> list[pa.Array]:
    return list(values.chunks) if isinstance(values, pa.ChunkedArray) else [values]


def words_of_shard(noun: Noun, passes: Sequence[str], buckets: int, shard: int) -> pa.Table:
    """What some passes said of the rows of a shard, in their order."""
    found = [WORD_SCHEMA.empty_table()]
    for name in passes:
        uris = [noun.uri_of(step_name(f"{name}-words", bucket, "arrow")) for bucket in range(buckets)]
        found.append(read_buckets(uris, shard, shard + 1))
    return pa.concat_tables(found)


def final_marks(noun: Noun, passes: Sequence[str], buckets: int, shard: int, keys: pa.Table) -> pa.Table:
    """The marks of a shard: one row for each of `keys` (key, source_id), stood for by rows that stay to the end."""
    words = words_of_shard(noun, passes, buckets, shard)
    marked = words.filter(words["reason"].is_valid())
    marked = _handed_on(marked, _moved(noun, passes, buckets))
    heads = words.filter(words["reason"].is_null())
    said = pa.concat_tables([marked, heads]).combine_chunks()  # a row that goes comes before that it was a head
    return of_keys(keys, said)


def _moved(noun: Noun, passes: Sequence[str], buckets: int) -> pa.Table:
    """The rows that stood for others and then went."""
    names = (step_name(f"{name}-words", bucket, "moved.parquet") for name in passes for bucket in range(buckets))
    return pa.concat_tables([WORD_SCHEMA.empty_table(), *(noun.read_table(name) for name in names)]).combine_chunks()


def _handed_on(marked: pa.Table, moved: pa.Table) -> pa.Table:
    """Marks whose row that stays is the last one of its chain; the similarity stays that with the first."""
    moved_keys = moved["key"].combine_chunks()
    while True:
        at = pc.index_in(marked["like"], value_set=moved_keys)
        if at.null_count == len(at):
            return marked
        for name in ("like", "like_source_id", "group"):
            handed = moved[name].take(at.combine_chunks())
            place = marked.schema.get_field_index(name)
            marked = marked.set_column(place, name, pc.coalesce(handed, marked[name]))
