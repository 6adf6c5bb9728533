"""Which marks a selection honours: those that are named, or all finished ones of its samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow.fs as pafs

from raycurate.run.filesystem import resolve
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.names import MARKS

log = logging.getLogger("raycurate")


def honoured(run: Run, samples: str, named: Sequence[str] | None) -> list[Noun]:
    """Nouns of marks by label.

    Args:
        run: where they are.
        samples: label of the samples that they must be of.
        named: labels, finished or not; None: all that are finished.
    """
    if named is not None:
        return [run.noun(MARKS, label) for label in sorted(set(named))]
    found = []
    for label in _labels(run):
        noun = run.noun(MARKS, label)
        manifest = noun.manifest()
        if manifest is not None and is_of(manifest, samples):
            found.append(noun)
        elif manifest is None and noun.read_json("work.json") is not None:
            log.warning("%s/%s is not finished, so it is not honoured", MARKS, label)
    return found


def is_of(manifest: Manifest, samples: str) -> bool:
    """Whether marks are of the samples of a label."""
    return str(manifest.description.get("config", {}).get("samples", "main")) == samples


def _labels(run: Run) -> list[str]:
    filesystem, root = resolve(run.uri)
    selector = pafs.FileSelector(f"{root}/{MARKS}", allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)
