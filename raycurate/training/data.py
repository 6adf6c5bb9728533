"""The rows of `tokens` nouns as one map-style dataset: random access with nothing but an index in memory.

Each source gives all of its rows, or those that its part of a mixture names (`training/mixture.py`). Parquet cannot be
read row by row, so each part is written out once per machine as an uncompressed Arrow file in a scratch folder and
memory-mapped: a row is then one page read, and the pages are the system's to drop. In memory are, per row, its length,
its task and its place: 16 bytes. Images of paths are read from their source's image root when a row is asked for;
processed images are kept up to `image_cache_mb`, since rows often share an image.

`epoch_order` is the order of an epoch, a function of (lengths, seed, epoch) only: a restarted run goes through the same
rows. It ends on a whole number of global micro-batches by repeating the *blank* row (`num_rows`): a copy of the
shortest row with an image, all labels masked, which adds nothing to any sum. So every row counts exactly once per
epoch, every rank has the same number of batches, and a batch of text alone can be given an image that keeps the
projector in use.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raycurate.encoding.images import ImageReader, ProcessedImage, RowError
from raycurate.encoding.tokens import image_token_ids, labels_of
from raycurate.run.store import Noun
from raycurate.samples.images import DEFAULT_LIMITS, ImageLimits, ImageRoot, load_image
from raycurate.samples.schema import IMAGE_TYPE, ImageRef
from raycurate.training.mixture import MixturePart, choose_rows

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


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Rows of one finished `tokens` noun. Small and picklable: it travels to every worker.

    Attributes:
        noun: `tokens`.
        image_root: where its image paths start.
        part: which rows; None is all of them.
        clusters: the noun that `part.clusters` names.
        seed: of the choice.
        limits: on the images, as the samples were made with.
    """

    noun: Noun
    image_root: str | None = None
    part: MixturePart | None = None
    clusters: Noun | None = None
    seed: int = 0
    limits: ImageLimits = DEFAULT_LIMITS


class TokenDataset(torch.utils.data.Dataset[TrainingRow]):
    """Rows 0..N-1 of the sources, and the blank row N."""

    def __init__(
        self,
        sources: Sequence[TokenSource],
        processor: Any,
        tasks: Sequence[str],
        *,
        scratch: str | Path,
        image_cache_mb: int = 256,
    ) -> None:
        """Open the sources.

        Args:
            sources: in the order of their rows.
            processor: of the model that the tokens were made for.
            tasks: the task names, in the order of their numbers.
            scratch: folder for the memory-mapped copies; processes of one machine share it.
            image_cache_mb: processed images that are kept in memory.

        Raises:
            UserError: a source with fewer rows of a group than its part asks for.
        """
        self._paths: list[Path] = []
        self._source_of_path: list[int] = []
        self._image_roots = [source.image_root for source in sources]
        self._limits = [source.limits for source in sources]
        self._tables: dict[int, pa.Table] = {}
        self._roots: dict[int, ImageRoot] = {}
        self._silent = image_token_ids(processor)
        self._reader = ImageReader(processor, torch.float32)
        self._cache: OrderedDict[tuple[int, str, bool], ProcessedImage] = OrderedDict()
        self._cache_bytes, self._cache_limit = 0, image_cache_mb << 20
        self._index([self._open(number, source, scratch) for number, source in enumerate(sources)], tasks)

    def _open(self, number: int, source: TokenSource, scratch: str | Path) -> dict[str, Any]:
        """The index of a source's rows, by column."""
        manifest = source.noun.require("finetune")
        folder = Path(scratch) / f"tokens-{manifest.fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        columns: dict[str, list[Any]] = {name: [] for name in ("length", "blind", "task", "path", "row")}
        groups: list[str | None] = []
        keys: list[str] = []
        for shard in range(manifest.shards):
            path = len(self._paths)
            self._paths.append(_local_copy(source.noun, shard, folder))
            self._source_of_path.append(number)
            table = self._table(path)
            columns["length"].append(table["length"].to_numpy())
            columns["blind"].append(pc.list_value_length(table["images"]).to_numpy() == 0)
            columns["task"].append(table["task"].to_numpy(zero_copy_only=False))
            columns["path"].append(np.full(table.num_rows, path, dtype=np.int32))
            columns["row"].append(np.arange(table.num_rows, dtype=np.int32))
            if source.part is not None and source.part.rows is not None:
                keys += table["key"].to_pylist()
                groups += _groups(source, shard, table)
        index = {name: np.concatenate(arrays) for name, arrays in columns.items()}
        if source.part is None or source.part.rows is None:
            return index
        chosen = choose_rows(groups, keys, source.part, seed=source.seed, where=f"samples/{source.part.samples}")
        return {name: values[chosen] for name, values in index.items()}

    def _index(self, indexes: Sequence[dict[str, Any]], tasks: Sequence[str]) -> None:
        numbers = {task: number for number, task in enumerate(tasks)}
        joined = {name: np.concatenate([index[name] for index in indexes]) for name in indexes[0]}
        self.lengths_N: np.ndarray = joined["length"]
        self.tasks_N: np.ndarray = np.array([numbers[task] for task in joined["task"]], dtype=np.int32)
        self._path_N, self._row_N = joined["path"], joined["row"]
        self.has_images = bool((~joined["blind"]).any())
        self._blank = int(np.lexsort((self.lengths_N, joined["blind"]))[0]) if len(self.lengths_N) else None

    @property
    def num_rows(self) -> int:
        """Rows to train on, N; the blank row has this number."""
        return len(self.lengths_N)

    def __len__(self) -> int:
        return self.num_rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}, "_cache": OrderedDict(), "_cache_bytes": 0, "_roots": {}}

    def __getitem__(self, index: int) -> TrainingRow:
        if index == self.num_rows:
            assert self._blank is not None, "a tokens noun has rows"
            row = self[self._blank]
            return TrainingRow(row.ids_T, np.full_like(row.labels_T, -100), row.task, row.images)
        path, at = int(self._path_N[index]), int(self._row_N[index])
        table, source = self._table(path), self._source_of_path[path]
        ids_T = table["input_ids"][at].values.to_numpy()
        spans_A2 = table["spans"][at].values.to_numpy().reshape(-1, 2)
        shown = table["images"][at].as_py()
        several = self._reader.looks_at_number and len(shown) > 1
        images = tuple(self._image(source, image, several) for image in shown)
        return TrainingRow(ids_T, labels_of(ids_T, spans_A2, self._silent), int(self.tasks_N[index]), images)

    def joined(self, read: Callable[[int, pa.ChunkedArray], np.ndarray]) -> np.ndarray:
        """A number of every row, [N]; `read` gives those of the keys of one part of the only source."""
        assert len(self._image_roots) == 1, "parts are those of one source"
        value_N = np.empty(self.num_rows)
        for path in range(len(self._paths)):
            own = np.flatnonzero(self._path_N == path)
            value_N[own] = read(path, self._table(path)["key"])[self._row_N[own]]
        return value_N

    def key(self, index: int) -> str:
        """The sample's key of a row."""
        return str(self._table(int(self._path_N[index]))["key"][int(self._row_N[index])].as_py())

    def _table(self, path: int) -> pa.Table:
        if path not in self._tables:
            with pa.memory_map(str(self._paths[path])) as source:
                self._tables[path] = pa.ipc.open_file(source).read_all()
        return self._tables[path]

    def _image(self, source: int, image: dict[str, Any], several: bool) -> ProcessedImage:
        ref = ImageRef(image["path"], image["data"], image["sha"])
        name = (source, ref.identity, several)
        found = self._cache.get(name)
        if found is not None:
            self._cache.move_to_end(name)
            return found
        if source not in self._roots:
            self._roots[source] = ImageRoot.of(self._image_roots[source])
        root, limits = self._roots[source], self._limits[source]
        try:
            processed = self._reader.read(lambda: load_image(root.read(ref, limits.max_bytes), limits), several)
        except RowError as error:
            raise OSError(f"the image {ref.identity} was readable before the training: {error}") from None
        self._keep(name, processed)
        return processed

    def _keep(self, name: tuple[int, str, bool], image: ProcessedImage) -> None:
        self._cache[name] = image
        self._cache_bytes += _num_bytes(image)
        while self._cache_bytes > self._cache_limit:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= _num_bytes(dropped)


def _groups(source: TokenSource, shard: int, rows: pa.Table) -> list[str | None]:
    """The task, or the cluster's number, of each row of one part."""
    if source.clusters is None:
        return list(rows["task"].to_pylist())
    found = source.clusters.read_part(shard, ["key", "cluster"])
    where = pc.index_in(rows["key"], value_set=found["key"].combine_chunks())
    return [None if number is None else str(number) for number in found["cluster"].take(where).to_pylist()]


def _num_bytes(image: ProcessedImage) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in image.tensors.values())


def _local_copy(noun: Noun, shard: int, folder: Path) -> Path:
    """The part as an uncompressed Arrow file on this machine; visible when complete.

    It is made once: other ranks of the machine wait for the one that makes it. A killed rank lets go of the lock.
    """
    path = folder / f"part-{shard:05d}.arrow"
    if path.exists():
        return path
    with (folder / f".{path.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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
    padded = padded_rows(num_rows, group_rows)
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


def padded_rows(rows: int, group_rows: int) -> int:
    """Rows and blanks of an epoch: a multiple of `group_rows`."""
    return -(-rows // group_rows) * group_rows


class EpochSampler(torch.utils.data.Sampler[int]):
    """The order of each epoch as torch wants it; the trainer sets the epoch.

    Args:
        order_of: rows of an `epoch`, given by this name.
        length: of each of those.
    """

    def __init__(self, order_of: Callable[..., np.ndarray], length: int) -> None:
        self._order_of, self._length, self.epoch = order_of, length, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self._order_of(epoch=self.epoch).tolist())
