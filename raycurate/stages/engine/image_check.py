"""Whether the images of samples are those that `ingest` saw: by shard, in tasks (``samples/seen.py``).

`ingest` asks before it says that it is done, and reads again where an image came, went or was replaced. Stages that
read images ask before anything else and refuse samples with replaced images: their texts and checks belong to others.
An image that went away is left to them: its rows are rejected one by one.
"""

from __future__ import annotations

import functools

from raycurate.errors import UserError
from raycurate.ray_session import in_worker
from raycurate.run.filesystem import exists
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun
from raycurate.samples.images import ImageRoot
from raycurate.samples.seen import compare
from raycurate.stages.engine.remedies import told_commands
from raycurate.stages.engine.shards import map_tasks

MAX_TASKS = 64


def seen_file(shard: int) -> str:
    """Where a shard's images are noted, inside the folder of the samples."""
    return f"seen/{shard:05d}.parquet"


def changed_images(samples: Noun, manifest: Manifest, images: str | None) -> tuple[list[str], list[str]]:
    """Images that were replaced, and those that came or went, since the samples were made.

    Args:
        samples: finished.
        manifest: theirs.
        images: the image root now.
    """
    if "images" not in manifest.description.get("inputs", {}):  # none by path, or samples that were not ingested
        return [], []
    moved = images != manifest.description["config"].get("images")
    look = functools.partial(_compare_shard, samples, images, moved)
    replaced: list[str] = []
    others: list[str] = []
    for found in map_tasks(look, ((shard,) for shard in range(manifest.shards)), num_cpus=0.5, max_tasks=MAX_TASKS):
        replaced += found[0]
        others += found[1]
    return sorted(replaced), sorted(others)


def _compare_shard(samples: Noun, images: str | None, moved: bool, shard: int) -> tuple[list[str], list[str]]:
    name = seen_file(shard)
    if not exists(samples.filesystem, f"{samples.folder}/{name}"):
        return [], []
    seen = samples.read_table(name)
    replaced, others, newer = compare(seen, ImageRoot.of(images), moved=moved)
    if not moved and not newer.equals(seen):
        samples.write_table(name, newer)
    return replaced, others


def check_images(samples: Noun, manifest: Manifest, images: str | None) -> None:
    """Refuse samples whose images were replaced. In a worker nothing is asked: its driver did.

    Raises:
        UserError: such images, with the command that reads them.
    """
    if in_worker():
        return
    replaced, _ = changed_images(samples, manifest, images)
    if replaced:
        raise UserError(
            f"{len(replaced):,} images of '{samples.noun}/{samples.label}' were replaced since then, for example "
            f"'{replaced[0]}'. Run {told_commands([samples])} again: it reads them."
        )
