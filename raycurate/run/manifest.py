"""What is written when a shard is committed and when a noun is finished, and the fingerprint that both go by."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from raycurate.version import __version__

RECORDED_LIBRARIES = ("ray", "torch", "transformers", "pyarrow", "numpy", "pillow")


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """Hex blake2b-128 of a JSON description of what determines a result."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


@functools.cache
def library_versions() -> dict[str, str]:
    """The versions that a manifest records beside the result."""
    return {name: importlib.metadata.version(name) for name in RECORDED_LIBRARIES}


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What the commit of one shard vouches for. ``rows_in == rows_out + sum(quarantined)`` always."""

    shard: int
    rows_in: int
    rows_out: int
    quarantined: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    checksum: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise if rows were lost or made up."""
        assert self.rows_in == self.rows_out + sum(self.quarantined.values()), f"rows lost in shard: {self}"

    def to_json(self) -> dict[str, Any]:
        """Its fields, not copied: counts by cluster are many, and `asdict` goes through each."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished noun.

    `seconds` is the wall clock of its stage over all attempts, `estimated_seconds` what was foreseen when it began, and
    `expected_seconds` what an experiment was foreseen to take after its first trial.
    """

    noun: str
    label: str
    fingerprint: str
    description: dict[str, Any]
    rows_in: int
    rows_out: int
    quarantined: dict[str, int]
    shards: int
    seconds: float
    metrics: dict[str, Any] = field(default_factory=dict)
    raycurate_version: str = __version__
    libraries: dict[str, str] = field(default_factory=library_versions)
    created: str = ""
    estimated_seconds: float | None = None
    expected_seconds: float | None = None

    def result(self) -> dict[str, Any]:
        """What it says but for the making of it, as JSON gives it back."""
        making = ("created", "seconds", "estimated_seconds", "expected_seconds", "raycurate_version", "libraries")
        value: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return {name: each for name, each in value.items() if name not in making}
