"""What a row-wise stage says of the rows that it rejected, before it publishes the others.

A few bad rows are normal: they are counted. Many mean that a format, a limit, an image root or a model does not fit the
rows, and what is left would be a data set of another kind, for example its text-only rows. So above 5 % the stage warns
with the leading reasons, and above `max_rejected`, or where no row with an image is left of those that had one, it
fails. Its parts stay: a rerun that allows the rejects does no row again. A shard of 256 rows and more that are all
rejected ends the stage at once.

Cost: one pass over the shard records; with many rejects also over the keys of the parts, until an image is found.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycurate.errors import UserError
from raycurate.run.filesystem import list_files
from raycurate.run.store import Noun

MANY = 0.05
ENOUGH = 256
log = logging.getLogger("raycurate")


def told_reasons(reasons: Mapping[str, int]) -> str:
    """Rows by reason in words, the most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in Counter(reasons).most_common())


def check_rejects(stage: str, noun: Noun, max_rejected: float, *, samples: Noun | None = None) -> None:
    """Warn of more than 5 % rejected rows of a noun whose parts are all committed.

    Args:
        stage: for the messages.
        noun: what was made, not finished yet.
        max_rejected: the largest share of rejected rows; with 1 one good row is enough.
        samples: the rows that it was made from; without them the noun is the samples.

    Raises:
        UserError: a larger share was rejected, or all rows with an image.
    """
    reasons: Counter[str] = Counter()
    good = 0
    for record in noun.records().values():
        reasons.update(record.quarantined)
        good += record.rows_out
    rejected = sum(reasons.values())
    share = rejected / max(1, good + rejected)
    if share <= min(MANY, max_rejected):
        return
    told = told_reasons(dict(reasons.most_common(3)))
    if not good or share > max_rejected or (max_rejected < 1 and _lost_all_images(noun, samples)):
        what = "" if share > max_rejected else ", all rows with an image among them"
        allow = " If they may go, add `--set max_rejected=1`: the rows that were made are kept." if good else ""
        raise UserError(
            f"{stage}: {rejected:,} of {good + rejected:,} rows were rejected ({told}){what}. "
            f"{first_with(noun, reasons.most_common(1)[0][0])}{noun.quarantine_folder} says why, row by row. "
            f"So many mean a wrong model, image root, format or limit rather than bad rows.{allow}"
        )
    log.warning(
        "%s: %.0f %% of the rows were rejected (%s); %s says why, row by row",
        stage,
        100 * share,
        told,
        noun.quarantine_folder,
    )


def first_with(noun: Noun, reason: str) -> str:
    """Where and what the first row that was rejected for a reason is, as a sentence; empty where there is none."""
    for file in list_files(noun.filesystem, noun.quarantine_folder, ".parquet"):
        columns = ["source_file", "source_row", "reason", "detail"]
        rows = pq.read_table(file.path, filesystem=noun.filesystem, columns=columns)
        found = rows.filter(pc.equal(rows["reason"], reason)).slice(0, 1).to_pylist()
        if found:
            first = found[0]
            place = f"{first['source_file']}, row {first['source_row']}"
            return f"The first with '{reason}' is {place}: {first['detail']}. "
    return ""


def check_some_good(shard: int, rows: int, rejects: pa.Table, max_rejected: float) -> None:
    """Raise UserError if not one of a shard's many rows could be used: why wait for the others?"""
    if rows >= ENOUGH and rejects.num_rows == rows and max_rejected < 1:
        raise UserError(
            f"every one of the {rows:,} rows of shard {shard} was rejected, the first with "
            f"'{rejects['reason'][0]}': {rejects['detail'][0]}. Check the image root, and the model where there "
            "is one; if these rows may go, add `--set max_rejected=1`."
        )


def _lost_all_images(noun: Noun, samples: Noun | None) -> bool:
    """Whether rows with an image were rejected and none is left."""
    lost = False
    for shard, record in sorted(noun.records().items()):
        rows = (samples or noun).read_part(shard, ["key", "images.list.element.path"])
        keys = rows["key"].filter(pc.greater(pc.list_value_length(rows["images"]), 0)).combine_chunks()
        if _any_in(noun.read_part(shard, ["key"])["key"], keys):
            return False
        if samples is None:  # rejected rows of a source have no keys to look up
            lost |= any(reason.startswith("image_") for reason in record.quarantined)
        elif record.quarantined:
            path = f"{noun.quarantine_folder}/part-{shard:05d}.parquet"
            lost |= _any_in(pq.read_table(path, filesystem=noun.filesystem, columns=["key"])["key"], keys)
    return lost


def _any_in(keys: pa.ChunkedArray, others: pa.Array) -> bool:
    return bool(pc.any(pc.is_in(keys, value_set=others), min_count=0).as_py())
