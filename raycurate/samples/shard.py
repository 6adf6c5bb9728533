"""The rows of a shard as one Arrow table: exact duplicates numbered, images checked, rows with a faulty one taken out.

Rows stay in Arrow from the bucket file to the part: a Python object is made of a row only where the row is refused, and
of an image while it is looked at. Each distinct image is looked at once, whatever the number of rows that show it.

Cost: one decode per distinct image, several at a time; memory is the table, the encoded bytes of embedded images
included, and the decoded pixels of ``threads`` images.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.samples.images import DEFAULT_LIMITS, ImageLimits, ImageRoot, inspect_image, strict_decoding
from raycurate.samples.quarantine import Fault, Reject, reject_sample
from raycurate.samples.schema import HASH_CHARS, ImageRef, row_to_sample


def number_duplicates(table: pa.Table) -> pa.Table:
    """Rows, equal ones beside each other, with the occurrence among equal rows as the last part of their keys."""
    if not table.num_rows:
        return table
    content = content_of(table["key"])
    number_N = content.dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(number_N, prepend=-1))
    position_N = np.arange(len(number_N))
    occurrence_N = position_N - np.repeat(starts, np.diff(starts, append=len(number_N)))
    return _with_keys(table, content, occurrence_N)


def content_of(keys: pa.ChunkedArray) -> pa.Array:
    """The hash of the content of each row: its key without the occurrence number; null stays null."""
    return pc.utf8_slice_codeunits(keys, 0, HASH_CHARS).combine_chunks()


def number_behind(table: pa.Table, last: Mapping[str, int]) -> pa.Table:
    """Numbered rows, those whose content is there already numbered on behind its last occurrence."""
    if not last:
        return table
    content = content_of(table["key"])
    own = pc.utf8_slice_codeunits(table["key"], HASH_CHARS + 1).cast(pa.int64())
    known = pc.index_in(content, value_set=pa.array(list(last), pa.string()))
    behind = pa.array([number + 1 for number in last.values()], pa.int64()).take(known)
    return _with_keys(table, content, pc.add(own, pc.fill_null(behind, 0)).to_numpy())


def _with_keys(table: pa.Table, content: pa.Array, occurrence_N: np.ndarray) -> pa.Table:
    keys = pc.binary_join_element_wise(content, pa.array(occurrence_N).cast(pa.string()), "-")
    return table.set_column(table.schema.get_field_index("key"), "key", keys)


class ShownImages:
    """The distinct images of a table of samples, numbered by first appearance, and the rows that show them."""

    def __init__(self, table: pa.Table) -> None:
        lists = table["images"].combine_chunks()
        self._flat = lists.flatten()
        path, sha = self._flat.field("path"), self._flat.field("sha")
        names = pc.if_else(sha.is_valid(), _joined("sha:", sha), _joined("path:", path))
        self.image_S = names.dictionary_encode().indices.to_numpy().astype(np.int64)
        """The distinct image of each slot."""
        self.row_S = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
        """The row of each slot."""
        self._slot_U = np.unique(self.image_S, return_index=True)[1]

    def __len__(self) -> int:
        return len(self._slot_U)

    def ref(self, image: int) -> ImageRef:
        """One of the distinct images."""
        found = self._flat[int(self._slot_U[image])].as_py()
        return ImageRef(found["path"], found["data"], found["sha"])

    def paths(self) -> list[str]:
        """The paths of those that are named by one."""
        shown = self._flat.take(pa.array(self._slot_U))
        by_path = shown.field("path").filter(pc.and_(shown.field("sha").is_null(), shown.field("path").is_valid()))
        return list(by_path.to_pylist())

    def faults(
        self, root: ImageRoot, limits: ImageLimits = DEFAULT_LIMITS, *, decode: bool = True, threads: int = 1
    ) -> dict[int, Fault]:
        """What is wrong with the images that cannot be used; ``decode=False`` only looks whether they are there."""

        def inspect(image: int) -> Fault | None:
            ref = self.ref(image)
            return inspect_image(ref, root, limits) if decode else root.exists(ref)

        with strict_decoding(), ThreadPoolExecutor(max_workers=threads) as pool:
            found = enumerate(pool.map(inspect, range(len(self))))
            return {image: fault for image, fault in found if fault is not None}

    def split(self, table: pa.Table, faults: Mapping[int, Fault]) -> tuple[pa.Table, list[Reject]]:
        """The rows without a faulty image, and the others, each refused for the first one that it shows."""
        bad_S = np.flatnonzero(np.isin(self.image_S, list(faults)))
        rows, first = np.unique(self.row_S[bad_S], return_index=True)
        images = self.image_S[bad_S[first]].tolist()
        refused = table.take(pa.array(rows)).to_pylist()
        rejects = [reject_sample(row_to_sample(row), faults[i]) for row, i in zip(refused, images, strict=True)]
        good_N = np.ones(table.num_rows, dtype=bool)
        good_N[rows] = False
        return table.filter(pa.array(good_N)), rejects


def _joined(prefix: str, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(prefix, names, "", null_handling="emit_null")
