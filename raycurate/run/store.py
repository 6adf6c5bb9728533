"""The run directory: nouns, their parts, their records and manifests.

    RUN/<noun>/<label>/part-00000.parquet     the rows of shard 0
    RUN/<noun>/<label>/records/00000.json     the commit record of shard 0: rows, quarantined rows by reason, checksum
    RUN/<noun>/<label>/work.json              what is being made here: the fingerprint and how far it is
    RUN/<noun>/<label>/records.jsonl          all records of the finished noun, so that a reader asks once
    RUN/<noun>/<label>/files.json             the files of the finished noun and their sizes in bytes
    RUN/<noun>/<label>/manifest.json          the noun is complete: fingerprint, config, counts, versions, metrics
    RUN/quarantine/<noun>-<label>/part-*.parquet

A part counts only when its record is there; a noun counts only when its manifest is there. Both are written after what
they vouch for, so a crash at any point leaves a directory that a rerun reads correctly. A rerun with the same
fingerprint makes the missing parts; a rerun with another fingerprint empties the noun first. A finished noun of which a
file is gone, or has another size, is not done: one listing of its folder tells.
"""

from __future__ import annotations

import functools
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raycurate.errors import UserError
from raycurate.run.ahead import map_ahead
from raycurate.run.filesystem import (
    TEMPORARY,
    absolute,
    delete_folder,
    exists,
    file_sizes,
    list_files,
    read_bytes,
    read_json,
    resolve,
    write_bytes,
    write_json,
    write_table,
)
from raycurate.run.manifest import Manifest, ShardRecord, fingerprint_of
from raycurate.run.names import plain_label
from raycurate.version import __version__

FILES = "files.json"
RECORDS = "records.jsonl"
NOTES = re.compile(
    r"(manifest|work|progress|files|source|step|fault|append|forget)\.json|(seen|work|checkpoints?|ray|tune|logs)/.*"
    rf"|{re.escape(RECORDS)}|(.*/)?{re.escape(TEMPORARY)}.*"
)
"""What a noun keeps beside its result: written anew, or removed, after it is finished."""


@dataclass(frozen=True)
class Noun:
    """One Parquet dataset of a run. Small and picklable: it travels to every worker."""

    run_uri: str
    noun: str
    label: str = "main"

    @property
    def filesystem(self) -> pafs.FileSystem:
        return resolve(self.run_uri)[0]

    @property
    def folder(self) -> str:
        return f"{resolve(self.run_uri)[1]}/{self.noun}/{self.label}"

    @property
    def quarantine_folder(self) -> str:
        return f"{resolve(self.run_uri)[1]}/quarantine/{self.noun}-{self.label}"

    def uri_of(self, name: str) -> str:
        """The URI of a file inside the noun's folder."""
        return f"{self.run_uri}/{self.noun}/{self.label}/{name}"

    def part_path(self, shard: int) -> str:
        return f"{self.folder}/part-{shard:05d}.parquet"

    # the life of a noun

    def begin(self, description: Mapping[str, Any]) -> None:
        """Start making the noun, or go on where an earlier run of the same description stopped."""
        fingerprint = fingerprint_of(description)
        work = self.read_json("work.json")
        if work is None or work["fingerprint"] != fingerprint:
            self.clear()
            self.write_json(
                "work.json",
                {"fingerprint": fingerprint, "description": description, "started": time.time(), "seconds": 0.0},
            )
        else:
            self._delete(RECORDS)  # parts are made again: each record by itself counts

    def extend(self, description: Mapping[str, Any]) -> None:
        """Go on making the noun under another description, which changes nothing of the parts that are there."""
        work = self.read_json("work.json")
        assert work is not None, "extend() before begin()"
        self._delete("manifest.json")  # first: no reader sees a noun that is half changed
        self._delete(RECORDS)
        now = {"fingerprint": fingerprint_of(description), "description": description}
        if now["fingerprint"] != work["fingerprint"]:
            now["foreseen_before"] = work.get("estimated_seconds", 0.0)
        self.write_json("work.json", {**work, **now})

    def clear(self) -> None:
        """Remove everything made under this name. The manifest goes first: no reader sees a half-empty noun."""
        self._delete("manifest.json")
        delete_folder(self.filesystem, self.folder)
        delete_folder(self.filesystem, self.quarantine_folder)

    def _delete(self, name: str) -> None:
        if exists(self.filesystem, f"{self.folder}/{name}"):
            self.filesystem.delete_file(f"{self.folder}/{name}")

    def finish(self, *, metrics: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None) -> Manifest:
        """Publish the noun: sum the records up, write the manifest; one that says just the same keeps its date.

        Args:
            metrics: what else the manifest says.
            inputs: of the description, known only now that they were read.
        """
        work = self.read_json("work.json")
        assert work is not None, "finish() before begin()"
        description = work["description"]
        if inputs:
            description = {**description, "inputs": {**description.get("inputs", {}), **inputs}}
        records = self.records()
        quarantined: Counter[str] = Counter()
        for record in records.values():
            record.check()
            quarantined.update(record.quarantined)
        manifest = Manifest(
            noun=self.noun,
            label=self.label,
            fingerprint=fingerprint_of(description),
            description=description,
            rows_in=sum(r.rows_in for r in records.values()),
            rows_out=sum(r.rows_out for r in records.values()),
            quarantined=dict(quarantined),
            shards=len(records),
            seconds=round(work["seconds"], 3),
            metrics=dict(metrics or {}),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            estimated_seconds=work.get("estimated_seconds"),
            expected_seconds=work.get("expected_seconds"),
        )
        lines = (json.dumps(record.to_json()) for record in records.values())
        self.write_bytes(RECORDS, "".join(f"{line}\n" for line in lines).encode())
        self.write_json(FILES, self._sizes())
        before = self.manifest()
        if before is not None and before.result() == manifest.result():
            return before
        self.write_json("manifest.json", asdict(manifest))
        for info in list_files(self.filesystem, self.folder):
            if info.base_name.startswith(TEMPORARY):  # what a killed writer left behind
                self.filesystem.delete_file(info.path)
        return manifest

    def manifest(self) -> Manifest | None:
        """The manifest of a finished noun, None while it is not finished."""
        value = self.read_json("manifest.json")
        return None if value is None else Manifest(**value)

    def is_done(self, description: Mapping[str, Any]) -> bool:
        """Whether the noun is finished with this very description, and none of its files was lost since."""
        manifest = self.manifest()
        if manifest is None or manifest.fingerprint != fingerprint_of(description):
            return False
        return not self.lost_files(manifest)

    def lost_files(self, manifest: Manifest) -> list[str]:
        """Names of the files that the finished noun had and that are gone or cut short, sorted; one listing.

        Of a noun without a list of its files, which earlier versions did not write, the parts are looked for.
        """
        there, had = self._sizes(), self.read_json(FILES)
        if had is None:
            parts = (f"part-{shard:05d}.parquet" for shard in range(manifest.shards))
            return [name for name in parts if name not in there]
        return sorted(name for name, size in had.items() if there.get(name) != size)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each file of the result, by its name below the noun's folder."""
        found = file_sizes(self.filesystem, self.folder)
        return {name: size for name, size in found.items() if not NOTES.fullmatch(name)}

    def require(self, made_by: str) -> Manifest:
        """The manifest, or an error that names the stage to run first."""
        manifest = self.manifest()
        if manifest is None:
            raise UserError(
                f"{self.run_uri} has no finished '{self.noun}/{self.label}'. Run `raycurate {made_by}` first, "
                f"or name another label; `raycurate status {self.run_uri}` shows what is there."
            )
        return manifest

    def foresee(self, seconds: float, *, more: bool = False) -> None:
        """Note what a noun that was begun is estimated to take in all; its manifest will say so.

        Args:
            seconds: in all; with `more` those of what it was extended by.
            more: what was foreseen before it was extended counts as well.
        """
        work = self.read_json("work.json")
        assert work is not None, "foresee() before begin()"
        before = (work.get("foreseen_before") or 0.0) if more else 0.0
        self.write_json("work.json", {**work, "estimated_seconds": round(before + seconds, 3)})

    def foresee_trials(self, name: str, estimated: float | None = None, expected: float | None = None) -> None:
        """Note what some trials of an experiment will take: by formula, and after the first; the manifest has the sums.

        Args:
            name: of these trials. What was said of them first stays: an attempt that goes on has fewer to do.
            estimated: seconds by formula.
            expected: seconds by what the first trial took.
        """
        work = self.read_json("work.json")
        assert work is not None, "foresee_trials() before begin()"
        said = work.setdefault("trials", {}).setdefault(name, {})
        for kind, seconds in (("estimated", estimated), ("expected", expected)):
            if seconds is not None and kind not in said:
                said[kind] = round(seconds, 3)
            known = [each[kind] for each in work["trials"].values() if kind in each]
            work[f"{kind}_seconds"] = round(sum(known), 3) if known else None
        self.write_json("work.json", work)

    def add_seconds(self, seconds: float) -> None:
        """Count the wall clock of this attempt; attempts add up in the manifest."""
        work = self.read_json("work.json")
        assert work is not None
        work["seconds"] += seconds
        self.write_json("work.json", work)

    # parts and records

    def commit_part(
        self,
        shard: int,
        table: pa.Table,
        *,
        rows_in: int,
        rejects: pa.Table | None = None,
        compression: str = "zstd",
        row_group_rows: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> ShardRecord:
        """Write one shard: its rejects, its rows, then the record that makes both count."""
        quarantined = Counter(rejects["reason"].to_pylist()) if rejects is not None else Counter()
        if rejects is not None and rejects.num_rows:
            path = f"{self.quarantine_folder}/part-{shard:05d}.parquet"
            write_table(self.filesystem, path, rejects)
        size, checksum = write_table(
            self.filesystem, self.part_path(shard), table, compression=compression, row_group_rows=row_group_rows
        )
        record = ShardRecord(
            shard=shard,
            rows_in=rows_in,
            rows_out=table.num_rows,
            quarantined=dict(quarantined),
            num_bytes=size,
            checksum=f"crc32:{checksum:08x}",
            extra=dict(extra or {}),
        )
        record.check()
        self.write_json(f"records/{shard:05d}.json", record.to_json())
        return record

    def records(self) -> dict[int, ShardRecord]:
        """The records of the committed shards, by shard number."""
        return {record.shard: record for record in self.iter_records()}

    def iter_records(self) -> Iterator[ShardRecord]:
        """The records of the shards whose part is there and has the recorded size, a few in memory at a time."""
        sizes = {info.base_name: info.size for info in list_files(self.filesystem, self.folder)}
        for text in self._record_texts(finished=RECORDS in sizes):
            record = ShardRecord(**json.loads(text))
            if sizes.get(f"part-{record.shard:05d}.parquet") == record.num_bytes:
                yield record

    def _record_texts(self, *, finished: bool) -> Iterator[bytes]:
        """The JSON of each record, by shard: of a finished noun from one file."""
        if finished:
            yield from read_bytes(self.filesystem, f"{self.folder}/{RECORDS}").splitlines()
            return
        read = functools.partial(read_bytes, self.filesystem)
        infos = list_files(self.filesystem, f"{self.folder}/records", ".json")
        yield from map_ahead(read, [info.path for info in infos])

    def missing(self, num_shards: int) -> list[int]:
        """The shards that are still to be made."""
        done = self.records()
        return [shard for shard in range(num_shards) if shard not in done]

    def read_part(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """One part as a table."""
        with pq.ParquetFile(self.part_path(shard), filesystem=self.filesystem) as part:
            return part.read(columns)

    def iter_parts(self, columns: list[str] | None = None) -> Iterable[pa.Table]:
        """Every part in order, one in memory at a time."""
        manifest = self.require(self.noun)
        for shard in range(manifest.shards):
            yield self.read_part(shard, columns)

    # small files

    def write_table(self, name: str, table: pa.Table, *, compression: str = "zstd") -> None:
        """A small table beside the parts, for example ``clusters.parquet``."""
        write_table(self.filesystem, f"{self.folder}/{name}", table, compression=compression)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A small table beside the parts."""
        return pq.read_table(f"{self.folder}/{name}", filesystem=self.filesystem, columns=columns)

    def write_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        """A small file inside the noun's folder, atomically."""
        write_bytes(self.filesystem, f"{self.folder}/{name}", data)

    def write_json(self, name: str, value: Any, *, sort_keys: bool = True) -> None:
        """A small JSON file inside the noun's folder; a number that is not finite is an error."""
        write_json(self.filesystem, f"{self.folder}/{name}", value, sort_keys=sort_keys)

    def read_json(self, name: str) -> Any | None:
        """A small JSON file inside the noun's folder, None where there is none."""
        return read_json(self.filesystem, f"{self.folder}/{name}")


@dataclass(frozen=True)
class Run:
    """A run directory by its URI, or by its path, which is made absolute."""

    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", absolute(self.uri))

    def noun(self, noun: str, label: str = "main") -> Noun:
        """A noun of the run, made or not. Raises `UserError` for a label that is no plain name."""
        return Noun(self.uri.rstrip("/"), noun, plain_label(label))

    @property
    def id(self) -> str:
        """A short random name, made with the run: it names the run's actors."""
        filesystem, path = resolve(self.uri)
        value = read_json(filesystem, f"{path}/run.json")
        if value is None:
            value = {"id": uuid.uuid4().hex[:8], "raycurate_version": __version__, "created": time.time()}
            write_json(filesystem, f"{path}/run.json", value)
        return str(value["id"])

    def nouns(self) -> list[Noun]:
        """Every noun that was begun in this run, by name."""
        filesystem, root = resolve(self.uri)
        if not exists(filesystem, root):
            raise UserError(f"there is no run directory at {self.uri}. `raycurate ingest SOURCE --out RUN` makes one.")
        if filesystem.get_file_info(root).type == pafs.FileType.File:
            raise UserError(f"{self.uri} is a file, not a run directory")
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=False))
        found: list[Noun] = []
        for info in infos:
            if info.type == pafs.FileType.Directory and info.base_name != "quarantine":
                labels = filesystem.get_file_info(pafs.FileSelector(info.path))
                found += [Noun(self.uri.rstrip("/"), info.base_name, i.base_name) for i in labels]
        found = [n for n in found if exists(n.filesystem, f"{n.folder}/work.json")]
        if not found and "run.json" not in {info.base_name for info in infos}:
            inside = ", ".join(sorted(info.base_name for info in infos)[:5])
            holds = f"it holds {inside}, and nothing that a stage has made" if inside else "it is empty"
            raise UserError(f"{self.uri} is no run directory: {holds}. `raycurate ingest SOURCE --out RUN` makes one.")
        return sorted(found, key=lambda noun: (noun.noun, noun.label))
