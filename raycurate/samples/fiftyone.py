"""A folder that FiftyOne opens: every image of every row, with what the selection says of it.

    metadata.json  version, media type and the fields' types        fo.types.FiftyOneDataset
    samples.json   a document per image of a row

Rows that were not kept are there as well, `kept` tells them apart. FiftyOne holds media: a row with several images is
several documents of one `key`, told apart by `image`, and a row without one is left out and counted. Ratings of the
source are fields with `rating_` in front; one that is not of one type in all rows is a field without a type.

The folder says that it is of FiftyOne 1.0.0, from where later versions bring it forward when they import it.
Cost: one pass; memory is one row. FiftyOne itself reads `samples.json` whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycurate.samples.exporters import ExportOptions, json_bytes
from raycurate.samples.extras import BOOLEAN, NUMBER, NUMBERS, TEXT, kind_of
from raycurate.samples.folder_writers import ImagesBesideWriter
from raycurate.samples.schema import IMAGE_MARK, Sample

SHOWS_ALL = ("fiftyone",)
"""Formats that hold the rows that were not kept as well."""
DECIDED = ("kept", "cluster", "rank", "score", "reason")
_VERSION = "1.0.0"
_FIELDS = {
    "filepath": "String",
    "tags": "List:String",
    "key": "String",
    "source_id": "String",
    "task": "String",
    "image": "Int",
    "question": "String",
    "answer": "String",
    "conversation": "String",
    "kept": "Boolean",
    "cluster": "Int",
    "rank": "Int",
    "score": "Float",
    "reason": "String",
}
_TYPES = {BOOLEAN: "Boolean", NUMBER: "Float", NUMBERS: "List:Float", TEXT: "String"}
_ANY = ""


def with_decisions(rows: pa.Table, decided: pa.Table) -> pa.Table:
    """Rows of ``SAMPLE_SCHEMA`` with what a selection says of them among their further values.

    Args:
        rows: of one shard.
        decided: columns ``DECIDED`` of the selection, of the same rows.
    """
    further = []
    for extra, facts in zip(rows["extra"].to_pylist(), decided.select(DECIDED).to_pylist(), strict=True):
        ratings = {f"rating_{name}": value for name, value in json.loads(extra or "{}").items()}
        score = facts["score"]
        facts["score"] = None if score is None or score != score else score
        further.append(json.dumps(ratings | facts))
    return rows.set_column(rows.schema.get_field_index("extra"), "extra", pa.array(further, pa.string()))


class FiftyOneWriter(ImagesBesideWriter):
    """Writes the documents, and in the end what they are."""

    def __init__(self, folder: str, options: ExportOptions, weights: Mapping[str, float] | None, place: str) -> None:
        super().__init__(folder, options, weights, place)
        self._types = dict(_FIELDS)
        self._stream = open(f"{folder}/samples.json", "wb")  # noqa: SIM115 - open until all rows are written
        self._stream.write(b'{"samples": [')
        self._is_first = True

    def add(self, name: str, sample: Sample) -> None:  # noqa: ARG002 - one file has all tasks
        """See the base."""
        self.without_image += not sample.images
        row = self._row(sample)
        for number, path in enumerate(self.paths(sample)):
            self._stream.write(
                (b"\n" if self._is_first else b",\n") + json_bytes(row | {"filepath": path, "image": number})
            )
            self._is_first = False

    def finish(self, drawn: Mapping[str, float]) -> None:  # noqa: ARG002 - nothing is drawn
        """The types of the fields."""
        self._stream.write(b"\n]}\n")
        self._stream.close()
        fields = [_field(name, kind) for name, kind in self._types.items()]
        head = {"version": _VERSION, "media_type": "image", "sample_fields": fields}
        Path(self.folder, "metadata.json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")

    def _row(self, sample: Sample) -> dict[str, Any]:
        texts = {turn.role: turn.text.replace(IMAGE_MARK, "").strip() for turn in reversed(sample.messages)}
        turns = (f"{turn.role}{'' if turn.train else ' (context only)'}: {turn.text}" for turn in sample.messages)
        return {
            "tags": [],
            "_media_type": "image",
            "_rand": int(sample.content_hash[:8], 16) / 2**32,  # what FiftyOne draws by
            "key": sample.key,
            "source_id": sample.source_id,
            "task": sample.task,
            "question": texts.get("user", ""),
            "answer": texts.get("assistant", ""),
            "conversation": "\n\n".join(turns),
            **self._further(json.loads(sample.extra or "{}")),
        }

    def _further(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Further values of a row under names that FiftyOne takes."""
        found = {}
        for name, value in values.items():
            field = name if name in _FIELDS else re.sub(r"\W", "_", name)
            kind = kind_of(value)
            if field not in _FIELDS and kind is not None:
                before = self._types.setdefault(field, _TYPES[kind])
                self._types[field] = before if before == _TYPES[kind] else _ANY
                value = _as_floats(value)
            found[field] = value
        return found


def _as_floats(value: Any) -> Any:
    """Whole numbers as what other rows of the column may hold."""
    if isinstance(value, list):
        return [float(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _field(name: str, kind: str) -> dict[str, Any]:
    outer, _, inner = kind.partition(":")
    described = {"name": name, "ftype": f"fiftyone.core.fields.{outer}Field"}
    return described | ({"subfield": f"fiftyone.core.fields.{inner}Field"} if inner else {})
