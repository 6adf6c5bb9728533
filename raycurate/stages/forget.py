"""``forget``: remove rows from every noun of a run, keep them out, and look that nothing holds them.

    keys --contents--> forgotten.json (hashes of them: a row that comes again is refused, `samples/forgotten.py`)
      samples, features, row_scores   the rows leave their parts; the rest stays, and is current
      all other nouns that hold one   deleted, and made again by their commands
      reports                         deleted
      exports of the run that hold one   deleted, if they are still as they were written (`engine/exported.py`)
      then every file of the run is read for what must not be there

A row is its content: with one key its exact copies go too. Samples whose rows have left have another description, with
what was forgotten among its inputs; the fingerprints that follow from it are put into the descriptions of what was made
from them, and ``forgetting.json`` keeps old and new ones until all is done. After a kill the same command goes on.

What it cannot reach is told or documented: other files outside of the run (the source, images, copies of exports and
adapters, exports that were changed since), and what a model has learned. An export whose selection is gone or was made
again since is taken to hold the rows: nothing tells that it does not. Sums over many rows (centroids) are deleted with
their clusters.

Cost: the keys of all parts are read twice; parts that hold a row are written again. Memory: one part and the keys.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raycurate.errors import UserError
from raycurate.run.filesystem import exists, read_bytes, read_json, resolve, write_json
from raycurate.run.lock import run_lock
from raycurate.run.manifest import ShardRecord, fingerprint_of
from raycurate.run.store import Noun, Run
from raycurate.samples.fiftyone import SHOWS_ALL
from raycurate.samples.forgotten import Forgotten
from raycurate.samples.schema import HASH_CHARS, QUARANTINE_SCHEMA
from raycurate.samples.seen import digest_of
from raycurate.samples.shard import ShownImages, content_of
from raycurate.stages.engine.exported import noted_exports
from raycurate.stages.engine.growth import earlier_states
from raycurate.stages.engine.image_check import seen_file
from raycurate.stages.engine.remedies import export_again, told_commands
from raycurate.stages.table import NOUNS

BY_ROW = ("samples", "features", "row_scores")
"""Nouns whose other rows are what they are without the rows that leave."""
OF_ALL_ROWS = ("reference",)
"""Scores of which that is not so."""
MAP_FILE, NOTE = "forgetting.json", "forget.json"
NUMBERS = (".safetensors", ".pt", ".bin", ".npy")
"""Endings of files that hold no text."""
HASH = re.compile(rb"[0-9a-f]{%d}" % HASH_CHARS)
KEY = re.compile(rf"([0-9a-f]{{{HASH_CHARS}}})(-\d+)?")


@dataclass(slots=True)
class Removed:
    """What `forget` did.

    Attributes:
        rows: rows of samples that left.
        rewritten: nouns that rows left.
        deleted: nouns that are gone, and the commands that make each again.
        exports: places of exports that are gone, and the command that makes each again.
        changed: places of exports that were changed since they were written and so were left as they are.
        unknown: contents that no samples held.
    """

    rows: int = 0
    rewritten: list[str] = field(default_factory=list)
    deleted: dict[str, str] = field(default_factory=dict)
    exports: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    unknown: int = 0


def read_keys(uri: str) -> set[str]:
    """The contents that a file names: a key in each line, with or without its occurrence number.

    Raises:
        UserError: no such file, no key in it, or a line that is none.
    """
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type != pafs.FileType.File:
        raise UserError(f"there is no file {uri}; give a text file with a row's key in each line")
    contents = set()
    for number, line in enumerate(read_bytes(filesystem, path).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        found = KEY.fullmatch(line.strip())
        if found is None:
            raise UserError(
                f"line {number} of {uri} is no key: {line.strip()[:60]!r}. Keys are those of the column `key`, for "
                f"example {'0' * HASH_CHARS}-0; `raycurate show` tells them."
            )
        contents.add(found[1])
    if not contents:
        raise UserError(f"{uri} names no key; give a row's key in each line")
    return contents


def forget(run: Run, keys: str) -> Removed:
    """Remove the rows that a file names.

    Raises:
        UserError: a file that cannot be read, a noun that is not finished, or another file of the run that names a row.
    """
    contents = read_keys(keys)
    with run_lock(run.uri):
        nouns = sorted(run.nouns(), key=lambda noun: NOUNS.index(noun.noun) if noun.noun in NOUNS else len(NOUNS))
        removed, found = Removed(), set[str]()
        nouns = _finished(nouns, removed)
        forgotten = Forgotten.of(run.uri).add(run.uri, contents)
        filesystem, root = resolve(run.uri)
        anew: dict[str, str] = read_json(filesystem, f"{root}/{MAP_FILE}") or {}
        again = {f"{noun.noun}/{noun.label}": told_commands([noun]) for noun in nouns}  # others tell it, and may go
        _delete_exports(run, contents, removed)  # before their selections go
        for noun in nouns:
            held = _named(filesystem, noun.folder, contents) | _named(filesystem, noun.quarantine_folder, contents)
            found |= held
            name = f"{noun.noun}/{noun.label}"
            if held and (noun.noun not in BY_ROW or noun.label.endswith(OF_ALL_ROWS)):
                removed.deleted[name] = again[name]
                noun.clear()
                continue
            description = _described_anew(run, noun, forgotten, anew, held=bool(held))
            write_json(filesystem, f"{root}/{MAP_FILE}", anew)
            if description is not None:
                rows = _rewrite(noun, description, contents)
                removed.rows += rows if noun.noun == "samples" else 0
                removed.rewritten += [name] if held else []
        removed.unknown = len(contents - found)
        _delete_reports(filesystem, root)
        if left := _files_naming(filesystem, root, contents):
            raise UserError(f"forgotten rows are still named in {', '.join(left)}, which no stage made: remove it")
        filesystem.delete_file(f"{root}/{MAP_FILE}")
    return removed


def _finished(nouns: list[Noun], removed: Removed) -> list[Noun]:
    """The nouns that can be looked through; attempts that have no row yet are deleted.

    Such an attempt begins anew in any case, as the samples that it reads have another description. Raises `UserError`
    for one that has rows.
    """
    open_ones = [noun for noun in nouns if noun.manifest() is None and noun.read_json(NOTE) is None]
    for noun in open_ones:
        if any(record.rows_out for record in noun.records().values()):
            raise UserError(
                f"'{noun.noun}/{noun.label}' is not finished, and what it has so far cannot be looked through: run "
                f"{told_commands([noun])} first, or delete {noun.folder}"
            )
    for noun in open_ones:
        removed.deleted[f"{noun.noun}/{noun.label}"] = told_commands([noun])
        noun.clear()
    return [noun for noun in nouns if noun not in open_ones]


def _described_anew(
    run: Run, noun: Noun, forgotten: Forgotten, anew: dict[str, str], *, held: bool
) -> dict[str, Any] | None:
    """The description of a noun without the rows, noted in `anew` by its old fingerprint; None where it stays."""
    work = noun.read_json("work.json")
    assert work is not None, "every noun was begun"
    manifest = noun.manifest()
    before: dict[str, Any] = work["description"] if manifest is None else manifest.description
    text = json.dumps(before)
    for old, new in anew.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    after: dict[str, Any] = json.loads(text)
    if noun.noun == "samples" and (held or after.get("stage") == "ingest"):
        after["inputs"] = {**(after.get("inputs") or {}), **forgotten.fact}
    states = ([fingerprint_of(each), *earlier_states(run, each)] for each in (before, after))
    anew.update({old: new for old, new in zip(*states, strict=True) if old != new})
    return after if held or manifest is None or before != after else None


def _rewrite(noun: Noun, description: dict[str, Any], contents: set[str]) -> int:
    """Take rows out of a noun's parts and publish it under another description; how many left now."""
    manifest = noun.manifest()
    if manifest is not None:
        noun.write_json(NOTE, manifest.metrics)
    metrics = noun.read_json(NOTE)
    assert metrics is not None, "written here, before the manifest goes"
    noun.extend(description)
    gone = sum(_rewrite_part(noun, record, contents) for record in noun.records().values())
    if noun.noun == "samples":
        tasks: Counter[str] = Counter()
        for record in noun.records().values():
            tasks.update(record.extra["tasks"])
        metrics["tasks"] = dict(sorted(tasks.items()))
    noun.finish(metrics=metrics)
    noun.filesystem.delete_file(f"{noun.folder}/{NOTE}")
    return gone


def _rewrite_part(noun: Noun, record: ShardRecord, contents: set[str]) -> int:
    """One part, its rejects and what is noted of its images without the rows; how many left."""
    known = pa.array(sorted(contents))
    table = noun.read_part(record.shard)
    goes = pc.is_in(content_of(table["key"]), value_set=known)
    kept = table.filter(pc.invert(goes))
    path = f"{noun.quarantine_folder}/part-{record.shard:05d}.parquet"
    rejects = QUARANTINE_SCHEMA.empty_table()
    if exists(noun.filesystem, path):
        rejects = pq.read_table(path, filesystem=noun.filesystem)
    refused = rejects.filter(pc.invert(pc.is_in(content_of(rejects["key"]), value_set=known)))
    if kept.num_rows == table.num_rows and refused.num_rows == rejects.num_rows:
        return 0
    if rejects.num_rows and not refused.num_rows:
        noun.filesystem.delete_file(path)
    extra = dict(record.extra)
    if noun.noun == "samples":
        extra |= {"tasks": dict(Counter(kept["task"].to_pylist())), "images": _see_less(noun, record, table, kept)}
    with pq.ParquetFile(noun.part_path(record.shard), filesystem=noun.filesystem) as part:
        group = part.metadata.row_group(0)
        compression, rows = group.column(0).compression.lower(), group.num_rows
    noun.commit_part(
        record.shard,
        kept,
        rows_in=kept.num_rows + refused.num_rows,
        rejects=refused,
        compression="none" if compression == "uncompressed" else compression,
        row_group_rows=rows or None,
        extra=extra,
    )
    return table.num_rows - kept.num_rows


def _see_less(noun: Noun, record: ShardRecord, table: pa.Table, kept: pa.Table) -> str:
    """Take images that rows no longer show out of what is noted of images; the hash of the rest."""
    name = seen_file(record.shard)
    if not exists(noun.filesystem, f"{noun.folder}/{name}"):
        return str(record.extra.get("images", ""))
    gone = set(ShownImages(table).paths()) - set(ShownImages(kept).paths())
    seen = noun.read_table(name)
    seen = seen.filter(pc.invert(pc.is_in(seen["path"], value_set=pa.array(sorted(gone), pa.string()))))
    noun.write_table(name, seen)
    return digest_of(seen)


def _delete_exports(run: Run, contents: set[str], removed: Removed) -> None:
    """Remove the exports of a run that hold a row, or may."""
    known = pa.array(sorted(contents))
    for each in list(noted_exports(run)):
        selection = run.noun("selection", each.selection)
        manifest = selection.manifest()
        if manifest is not None and manifest.fingerprint == each.fingerprint:
            parts = (selection.read_part(record.shard, ["key", "kept"]) for record in selection.records().values())
            held = (part if each.format in SHOWS_ALL else part.filter(part["kept"]) for part in parts)
            if not any(pc.any(pc.is_in(content_of(part["key"]), value_set=known)).as_py() for part in held):
                continue
        if each.is_as_written:
            each.delete(run)
            removed.exports[each.out] = f"`raycurate {export_again(run, each)}`"
        elif each.is_there:
            removed.changed.append(each.out)
        else:
            each.drop(run)


def _delete_reports(filesystem: pafs.FileSystem, root: str) -> None:
    """Pages in the run show texts and pictures of rows, also those in folders; `raycurate report` writes them again."""
    for info in filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True, recursive=True)):
        if info.type == pafs.FileType.File and info.path.endswith(".html"):
            filesystem.delete_file(info.path)


def _files_naming(filesystem: pafs.FileSystem, folder: str, contents: set[str]) -> dict[str, set[str]]:
    """The files below a folder that name a content, and which."""
    infos = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=True))
    files = [info for info in infos if info.type == pafs.FileType.File and not info.path.endswith(NUMBERS)]
    named = {info.path: _named_in(filesystem, info.path, contents) for info in files}
    return {path: found for path, found in named.items() if found}


def _named(filesystem: pafs.FileSystem, folder: str, contents: set[str]) -> set[str]:
    return set().union(*_files_naming(filesystem, folder, contents).values())


def _named_in(filesystem: pafs.FileSystem, path: str, contents: set[str]) -> set[str]:
    """Contents that a file names: in the text columns of Parquet, in the bytes of all else."""
    if not path.endswith(".parquet"):
        return contents & {found.decode() for found in HASH.findall(read_bytes(filesystem, path))}
    found: set[str] = set()
    known = pa.array(sorted(contents))
    with pq.ParquetFile(path, filesystem=filesystem) as part:
        names = [field.name for field in part.schema_arrow if _is_text(field.type)]
        for batch in part.iter_batches(columns=names) if names else ():
            for column in batch.columns:
                values = column.flatten() if pa.types.is_list(column.type) else column
                hashes = pc.utf8_slice_codeunits(values.cast(pa.string()), 0, HASH_CHARS)
                found |= set(hashes.filter(pc.is_in(hashes, value_set=known)).to_pylist())
    return found


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
