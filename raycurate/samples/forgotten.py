"""Rows that a run must not hold again: ``forgotten.json`` in its directory, hashes of the hashes of their contents.

A reader of that file cannot tell which rows they were, but a row that comes again, from whatever source, is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from raycurate.run.filesystem import read_json, resolve, write_json
from raycurate.run.manifest import fingerprint_of
from raycurate.samples.quarantine import Reason, Reject
from raycurate.samples.schema import Sample

FILE = "forgotten.json"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Digests of contents."""

    digests: frozenset[str] = frozenset()

    @classmethod
    def of(cls, run_uri: str) -> Forgotten:
        """Those of a run directory."""
        filesystem, root = resolve(run_uri)
        return cls(frozenset(read_json(filesystem, f"{root}/{FILE}") or ()))

    def add(self, run_uri: str, contents: Iterable[str]) -> Forgotten:
        """The same with more contents, noted in the run directory."""
        more = Forgotten(self.digests | {_digest(content) for content in contents})
        filesystem, root = resolve(run_uri)
        write_json(filesystem, f"{root}/{FILE}", sorted(more.digests))
        return more

    @property
    def fact(self) -> dict[str, str]:
        """What descriptions of samples hold of them."""
        return {"forgotten": fingerprint_of({"digests": sorted(self.digests)})} if self.digests else {}

    def without(self, parsed: Sample | Reject) -> Sample | Reject:
        """A row as it was parsed; one that must not come again as a reject that says its place only."""
        if isinstance(parsed, Reject) or not self.digests or _digest(parsed.content_hash) not in self.digests:
            return parsed
        return Reject(Reason.FORGOTTEN, "removed by `raycurate forget`", parsed.source_file, parsed.source_row)


def _digest(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16, person=b"forgotten").hexdigest()
