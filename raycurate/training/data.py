"""The rows of a `tokens` noun as a map-style dataset: random access with nothing but an index in memory.

Parquet cannot be read row by row, so each part is written out once per machine as an uncompressed Arrow file in a
scratch folder and memory-mapped: a row is then one page read, and the pages are the system's to drop. In memory are,
per row, its length, its task and its place: 16 bytes. Images of paths are read from the image root when a row is asked
for; processed images are kept up to `image_cache_mb`, since rows often share an image.

`epoch_order` is the order of an epoch, a function of (lengths, seed, epoch) only: a restarted run goes through the same
rows. It ends on a whole number of global micro-batches by repeating the *blank* row (`num_rows`): a copy of the
shortest row with an image, all labels masked, which adds nothing to any sum. So every row counts exactly once per
epoch, every rank has the same number of batches, and a batch of text alone can be given an image that keeps the
projector in use.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raycurate.features.images import ImageReader, ProcessedImage, RowError
from raycurate.samples.images import ImageRoot, load_image
from raycurate.samples.schema import IMAGE_TYPE, ImageRef
from raycurate.store import Noun
from raycurate.training.tokens import image_token_ids, labels_of

TOKENS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("task", pa.string()),
        ("length", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),
        ("images", pa.list_(IMAGE_TYPE)),
        ("turns_cut", pa.int32()),
    ]
)
MEGA_BATCHES = 50
"""Batches that are sorted by length together, as in transformers' length-grouped sampler."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row as the collator takes it."""

    ids_T: np.ndarray
    labels_T: np.ndarray
    task: int
    images: tuple[ProcessedImage, ...]


class TokenDataset(torch.utils.data.Dataset[TrainingRow]):
    """Rows 0..N-1 of a finished `tokens` noun, and the blank row N."""

    def __init__(
        self,
        noun: Noun,
        processor: Any,
        tasks: Sequence[str],
        *,
        scratch: str | Path,
        image_root: str | None,
        image_cache_mb: int = 256,
    ) -> None:
        """Open the noun.

        Args:
            noun: `tokens`, finished.
            processor: of the model that the tokens were made for.
            tasks: the task names, in the order of their numbers.
            scratch: folder for the memory-mapped copies; processes of one machine share it.
            image_root: where image paths start.
            image_cache_mb: processed images that are kept in memory.
        """
        manifest = noun.require("finetune")
        folder = Path(scratch) / f"tokens-{manifest.fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [_local_copy(noun, shard, folder) for shard in range(manifest.shards)]
        self._tables: dict[int, pa.Table] = {}
        self._root: ImageRoot | None = None
        self._image_root = image_root
        self._silent = image_token_ids(processor)
        self._reader = ImageReader(processor, torch.float32)
        self._cache: OrderedDict[str, ProcessedImage] = OrderedDict()
        self._cache_bytes, self._cache_limit = 0, image_cache_mb << 20
        self._index(tasks)

    def _index(self, tasks: Sequence[str]) -> None:
        numbers = {task: number for number, task in enumerate(tasks)}
        lengths: list[np.ndarray] = []
        task_numbers: list[np.ndarray] = []
        shards: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        self._blank: int | None = None
        shortest = (True, np.inf)
        for shard in range(len(self._paths)):
            table = self._table(shard)
            lengths_N = table["length"].to_numpy()
            if len(lengths_N):
                blind_N = pc.list_value_length(table["images"]).to_numpy() == 0
                best = int(np.lexsort((lengths_N, blind_N))[0])
                if (bool(blind_N[best]), lengths_N[best]) < shortest:
                    shortest = (bool(blind_N[best]), lengths_N[best])
                    self._blank = sum(len(each) for each in lengths) + best
            lengths.append(lengths_N)
            task_numbers.append(np.array([numbers[t] for t in table["task"].to_pylist()], dtype=np.int32))
            shards.append(np.full(len(lengths_N), shard, dtype=np.int32))
            rows.append(np.arange(len(lengths_N), dtype=np.int32))
        self.lengths_N: np.ndarray = np.concatenate(lengths)
        self.tasks_N: np.ndarray = np.concatenate(task_numbers)
        self._shard_N, self._row_N = np.concatenate(shards), np.concatenate(rows)
        self.has_images = not shortest[0]

    @property
    def num_rows(self) -> int:
        """Rows to train on, N; the blank row has this number."""
        return len(self.lengths_N)

    def __len__(self) -> int:
        return self.num_rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}, "_cache": OrderedDict(), "_cache_bytes": 0, "_root": None}

    def __getitem__(self, index: int) -> TrainingRow:
        if index == self.num_rows:
            assert self._blank is not None, "a tokens noun has rows"
            row = self[self._blank]
            return TrainingRow(row.ids_T, np.full_like(row.labels_T, -100), row.task, row.images)
        table, at = self._table(int(self._shard_N[index])), int(self._row_N[index])
        ids_T = table["input_ids"][at].values.to_numpy()
        spans_A2 = table["spans"][at].values.to_numpy().reshape(-1, 2)
        images = tuple(self._image(image) for image in table["images"][at].as_py())
        return TrainingRow(ids_T, labels_of(ids_T, spans_A2, self._silent), int(self.tasks_N[index]), images)

    def key(self, index: int) -> str:
        """The sample's key of a row."""
        return str(self._table(int(self._shard_N[index]))["key"][int(self._row_N[index])].as_py())

    def _table(self, shard: int) -> pa.Table:
        if shard not in self._tables:
            with pa.memory_map(str(self._paths[shard])) as source:
                self._tables[shard] = pa.ipc.open_file(source).read_all()
        return self._tables[shard]

    def _image(self, image: dict[str, Any]) -> ProcessedImage:
        ref = ImageRef(image["path"], image["data"], image["sha"])
        found = self._cache.get(ref.identity)
        if found is not None:
            self._cache.move_to_end(ref.identity)
            return found
        if self._root is None:
            self._root = ImageRoot(self._image_root)
        root = self._root
        try:
            processed = self._reader.read(lambda: load_image(root.read(ref)))
        except RowError as error:
            raise OSError(f"the image {ref.identity} was readable before the training: {error}") from None
        self._keep(ref.identity, processed)
        return processed

    def _keep(self, name: str, image: ProcessedImage) -> None:
        self._cache[name] = image
        self._cache_bytes += _num_bytes(image)
        while self._cache_bytes > self._cache_limit:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= _num_bytes(dropped)


def _num_bytes(image: ProcessedImage) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in image.tensors.values())


def _local_copy(noun: Noun, shard: int, folder: Path) -> Path:
    """The part as an uncompressed Arrow file on this machine; made once, visible when complete."""
    path = folder / f"part-{shard:05d}.arrow"
    if path.exists():
        return path
    temporary = folder / f".{path.name}-{uuid.uuid4().hex}"
    table = noun.read_part(shard).combine_chunks()
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    os.replace(temporary, path)
    return path


def epoch_order(lengths_N: np.ndarray, *, group_rows: int, seed: int, epoch: int, group_by_length: bool) -> np.ndarray:
    """Row numbers of one epoch, int64, padded with N (the blank row) to a multiple of `group_rows`.

    `group_rows` is a global micro-batch: rows of one forward pass over all ranks. With `group_by_length` random
    mega-batches of 50 groups are sorted by length, so that a group has rows of like length, and the groups are shuffled
    within their mega-batch, so that length does not follow the step.
    """
    generator = np.random.default_rng([seed, epoch])
    num_rows = len(lengths_N)
    order_N = generator.permutation(num_rows)
    padded = -(-num_rows // group_rows) * group_rows
    order = np.full(padded, num_rows, dtype=np.int64)
    order[:num_rows] = order_N
    if not group_by_length:
        return order
    lengths = np.append(lengths_N, 0)
    mega = MEGA_BATCHES * group_rows
    for start in range(0, padded, mega):
        chunk = order[start : start + mega]
        chunk = chunk[np.argsort(-lengths[chunk].astype(np.int64), kind="stable")]
        groups = chunk.reshape(-1, group_rows)
        order[start : start + mega] = groups[generator.permutation(len(groups))].reshape(-1)
    return order


class EpochSampler(torch.utils.data.Sampler[int]):
    """`epoch_order` as torch wants it; the trainer sets the epoch."""

    def __init__(self, lengths_N: np.ndarray, *, group_rows: int, seed: int, group_by_length: bool) -> None:
        self._lengths_N, self._group_rows = lengths_N, group_rows
        self._seed, self._by_length, self.epoch = seed, group_by_length, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths_N) // self._group_rows) * self._group_rows

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(
            self._lengths_N,
            group_rows=self._group_rows,
            seed=self._seed,
            epoch=self.epoch,
            group_by_length=self._by_length,
        )
        return iter(order.tolist())
