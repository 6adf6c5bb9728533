"""Read a data folder by its index: LLaMA-Factory's ``dataset_info.json``, InternVL's ``meta.json`` of any name.

InternVL's is known by what it holds: an object of objects, each with an ``annotation`` and a ``root``. An index names
the files of each data set, what their columns and roles are called, and where their images lie. Each data set is read
by the reader of its files' format, its rows are renamed to turns that every reader gives, and its name is their task
where they have none. Data sets whose files are not there (LLaMA-Factory's own index names dozens on the hub),
preference pairs and what an index says of repetitions are named, not guessed.

Files are looked for in the folder of the index; those of InternVL, which count from where the trainer is started, in
the folders above it as well. Image paths count from the data set's ``root``, below `--images`.
"""

from __future__ import annotations

import codecs
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow.fs as pafs

from raycurate.errors import UserError
from raycurate.run.filesystem import exists, read_bytes, resolve
from raycurate.samples.quarantine import FaultError
from raycurate.samples.rows import RawRow, Reader, ReadError, Slice, SourceFile, all_slices
from raycurate.samples.sources import list_source
from raycurate.samples.tables import as_turns

LLAMA_FACTORY, INTERN_VL = "dataset_info.json", "meta.json"
_PLACES = frozenset({"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url"})
_TAGS = {"user_tag": ("human", "user"), "assistant_tag": ("gpt", "assistant"), "system_tag": ("system", "system")}
_OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
_FIELDS = {"prompt": "question", "query": "input", "response": "answer", "history": "history", "system": "system"}
_NOT_APPLIED = ("repeat_time", "num_samples", "max_samples", "subset")
_LEVELS = 4
_MOST_FILES, _LARGEST, _HEAD = 100, 16 << 20, 64 << 10
"""Where an index of another name is looked for: files of JSON in a folder, bytes of one, bytes of the first look."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set of an index: what becomes of a row of its files."""

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of `tables.py` -> column, of Alpaca's layout."""
    turns: str | None = None
    """The column of the turns, of ShareGPT's layout."""
    roles: Mapping[str, str] = field(default_factory=dict)
    role_key: str = "from"
    content_key: str = "value"
    images: str | None = None
    """The column of the images, where it is not one of the usual names."""
    root: str = ""

    def row(self, value: Any) -> Any:
        """A row with turns under the usual names. Raises ``FaultError``."""
        if not isinstance(value, dict):
            return value
        row: dict[str, Any] = dict(value)
        if self.images is not None and self.images in row:
            row["images"] = row.pop(self.images)
        if self.columns and set(self.columns.values()) & row.keys():
            row = dict(as_turns(row, self.columns)[0])
        elif self.turns is not None and isinstance(row.get(self.turns), list):
            row["messages"] = [self._turn(turn) for turn in row.pop(self.turns)]
        return {"task": self.name, **{name: item for name, item in row.items() if name != "task" or item}}

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, dict) or self.role_key not in turn:
            return turn
        rest = {name: item for name, item in turn.items() if name not in (self.role_key, self.content_key)}
        role = turn[self.role_key]
        named = self.roles.get(role, role) if isinstance(role, str) else role
        return {**rest, "role": named, "content": turn.get(self.content_key)}


@dataclass(frozen=True, slots=True)
class IndexedReader:
    """The files of all data sets of an index, each with its own reader."""

    parts: tuple[tuple[DataSet, Reader], ...]
    index: str
    """The name of the index in its folder."""
    notes: tuple[str, ...]
    """What of the index is not read or not applied."""

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """See ``Reader``."""
        return tuple(sorted((file for _, reader in self.parts for file in reader.files), key=lambda file: file.name))

    @property
    def facts(self) -> list[str]:
        """What rows are made of by the index: other facts, other samples."""
        return [repr(dataset) for dataset, _ in self.parts]

    def slices(self) -> list[Slice]:
        """See ``Reader``."""
        return all_slices(self)

    def slice_file(self, file: SourceFile) -> list[Slice]:
        """See ``Reader``."""
        return self._of(file.uri)[1].slice_file(file)

    def unread_columns(self, file: SourceFile, /) -> list[str]:
        """See ``Reader``."""
        return self._of(file.uri)[1].unread_columns(file)

    def read(self, part: Slice) -> Iterator[RawRow]:
        """See ``Reader``."""
        dataset, reader = self._of(part.uri)
        for raw in reader.read(part):
            try:
                yield replace(raw, value=dataset.row(raw.value), root=dataset.root)
            except FaultError as error:
                yield replace(raw, value=ReadError(error.fault))

    def _of(self, uri: str) -> tuple[DataSet, Reader]:
        return next(pair for pair in self.parts if any(file.uri == uri for file in pair[1].files))


def read_index(
    folder: str, open_files: Callable[[tuple[SourceFile, ...], tuple[str, ...]], Reader], only: str | None = None
) -> IndexedReader | None:
    """The reader of a folder that has an index of a known kind; None for any other folder.

    Args:
        folder: its URI.
        open_files: the reader of some files by their format, given the columns that are read besides the usual ones.
        only: the file in the folder that may be its index; None: any.

    Raises:
        UserError: an index of which no file is there; several indexes of which none has the usual name.
    """
    filesystem, path = resolve(folder)
    for name, is_known, parse in ((LLAMA_FACTORY, _is_llama_factory, _llama_factory), (INTERN_VL, _is_intern, _intern)):
        if only not in (None, name) or not exists(filesystem, posixpath.join(path, name)):
            continue
        try:
            index = json.loads(read_bytes(filesystem, posixpath.join(path, name)))
        except ValueError as error:
            raise UserError(f"{folder}/{name} is no JSON: {error}") from None
        if _holds(index, is_known):
            return _reader(folder, name, index, parse, open_files)
    found = dict(_other_indexes(filesystem, path, only))
    if len(found) > 1:
        raise UserError(f"{folder} has several indexes of data sets: {', '.join(sorted(found))}. Name the file of one.")
    return next((_reader(folder, name, index, _intern, open_files) for name, index in found.items()), None)


def _holds(index: Any, is_known: Callable[[Mapping[str, Any]], bool]) -> bool:
    return isinstance(index, dict) and bool(index) and all(isinstance(e, dict) and is_known(e) for e in index.values())


def _other_indexes(
    filesystem: pafs.FileSystem, folder: str, only: str | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """InternVL's indexes in a folder by their names: small files among few, most of which one look leaves out."""
    place = pafs.FileSelector(folder) if only is None else [posixpath.join(folder, only)]
    infos = [info for info in filesystem.get_file_info(place) if info.type == pafs.FileType.File]
    texts = [info for info in infos if info.base_name.endswith(".json") and info.base_name[0] not in "._"]
    for info in texts if len(texts) <= _MOST_FILES else ():
        if info.size > _LARGEST or info.base_name in (LLAMA_FACTORY, INTERN_VL):
            continue
        with filesystem.open_input_stream(info.path) as stream:
            head = stream.read(_HEAD).removeprefix(codecs.BOM_UTF8)
            if not head.lstrip().startswith(b"{") or b'"annotation"' not in head:
                continue
            try:
                index = json.loads(head + stream.read())
            except ValueError:  # a line of rows, or another text
                continue
        if _holds(index, lambda entry: _is_intern(entry) and isinstance(entry.get("root"), str)):
            yield info.base_name, index


def _reader(folder: str, index_name: str, index: Mapping[str, Any], parse: Any, open_files: Any) -> IndexedReader:
    parts: list[tuple[DataSet, Reader]] = []
    notes: list[str] = []
    taken: set[str] = set()
    for name, entry in index.items():
        dataset, place, why_not = parse(name, entry)
        files = () if why_not else _files(folder, place, above=parse is _intern)
        why_not = why_not or (None if files else f"there is no {place}")
        if not why_not and taken & {file.uri for file in files}:
            why_not = f"{place} is read for another data set"
        if why_not:
            notes.append(f"not read: {name} of {index_name}: {why_not}")
            continue
        notes += [f"not applied: {key} of {name}" for key in _NOT_APPLIED if entry.get(key) not in (None, 1, -1)]
        taken |= {file.uri for file in files}
        columns = (*dataset.columns.values(), *filter(None, (dataset.turns, dataset.images)))
        parts.append((dataset, open_files(files, columns)))
    if not parts:
        raise UserError(f"{folder}/{index_name} names no file that is there: {'; '.join(notes[:3])}")
    return IndexedReader(tuple(parts), index_name, tuple(notes))


def _files(folder: str, place: str, *, above: bool) -> tuple[SourceFile, ...]:
    """The files of a data set, named by their place; none where they are not there."""
    if ".." in place.split("/") or (place.startswith("/") and not above):
        raise UserError(f"the index in {folder} names {place!r}, which is outside of its folder")
    for level in range(_LEVELS if above else 1):
        base = posixpath.normpath(posixpath.join(folder, *[".."] * level)) if level else folder
        uri = place if place.startswith("/") else f"{base}/{place}"
        filesystem, path = resolve(uri)
        if exists(filesystem, path):
            files = list_source(uri)
            alone = len(files) == 1 and path.endswith(files[0].name)
            return tuple(replace(file, name=place if alone else f"{place}/{file.name}") for file in files)
    return ()


def _is_llama_factory(entry: Mapping[str, Any]) -> bool:
    return not _PLACES.isdisjoint(entry)


def _is_intern(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("annotation"), str)


def _intern(name: str, entry: Mapping[str, Any]) -> tuple[DataSet, str, str | None]:
    return DataSet(name, root=str(entry.get("root") or "").rstrip("/")), str(entry["annotation"]), None


def _llama_factory(name: str, entry: Mapping[str, Any]) -> tuple[DataSet, str, str | None]:
    """The data set, its file or folder, and why it is not read."""
    place = entry.get("file_name")
    columns = entry.get("columns") if isinstance(entry.get("columns"), dict) else {}
    tags = entry.get("tags") if isinstance(entry.get("tags"), dict) else {}
    assert isinstance(columns, dict)
    assert isinstance(tags, dict)
    if entry.get("ranking"):
        return DataSet(name), "", "it holds preference pairs"
    if not isinstance(place, str):
        return DataSet(name), "", "it is on a hub; download it, or read it by --format hub"
    kind = entry.get("formatting", "alpaca")
    if kind == "alpaca":
        named = {key: columns.get(key, usual) for key, usual in _ALPACA.items()}
        if "system" in columns:
            named["system"] = columns["system"]
        mapped = {_FIELDS[key]: str(column) for key, column in named.items()}
        return DataSet(name, columns=mapped, images=columns.get("images")), place, None
    if kind not in ("sharegpt", "openai"):
        return DataSet(name), "", f"its formatting is {str(kind)[:40]!r}; known are alpaca, sharegpt and openai"
    tags = {**(_OPENAI if kind == "openai" else {}), **tags}
    roles = {str(tags.get(tag, usual)): role for tag, (usual, role) in _TAGS.items()}
    dataset = DataSet(
        name,
        turns=columns.get("messages", "messages" if kind == "openai" else "conversations"),
        roles=roles,
        role_key=tags.get("role_tag", "from"),
        content_key=tags.get("content_tag", "value"),
        images=columns.get("images"),
    )
    return dataset, place, None
