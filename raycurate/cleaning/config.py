"""The settings of `dedup` and `decontaminate`."""

from __future__ import annotations

from pydantic import Field

from raycurate.run.paths import ImagesPath
from raycurate.settings import Label, NounConfig, execution, rejected_share


class CleaningConfig(NounConfig):
    """What both have in common."""

    distance: int = Field(8, ge=0, le=32, description="of 64 bits of a perceptual hash that near images differ in")
    samples: Label = Field("main", description="label of the samples to read")
    images: ImagesPath | None = execution(None, description="image root, where it is not the one that ingest saw")
    threads: int = execution(4, ge=1, description="threads that fetch and decode images, per task")
    strict: bool = execution(False, description="the first row that cannot be read is an error")
    max_rejected: float = rejected_share()
    max_tasks: int = execution(64, ge=1, description="tasks in flight")


class DedupConfig(CleaningConfig):
    """``dedup``: rows that say what another row says, marked."""

    command_line = ("distance", "words", "clusters", "cosine")

    words: float = Field(
        0.8, gt=0, le=1, description="resemblance of questions and of answers, from which texts of one image are near"
    )
    clusters: Label | None = Field(
        None, description="also compare the features of rows of a cluster: label of the clusters, mostly main"
    )
    cosine: float = Field(0.98, gt=0, le=1, description="from which features are near; the report shows others")
    cluster_rows: int = Field(16_384, ge=2, description="largest cluster that is compared whole; beyond hashed parts")
    label: Label = execution("dedup")
    bucket_mb: int = execution(256, ge=1, description="prints or features that one comparing task holds")


class DecontaminateConfig(CleaningConfig):
    """``decontaminate``: rows that tell of a test set, marked."""

    command_line = ("against", "distance", "overlap")

    against: str = Field(description="the test rows: label of samples of this run, or what `ingest` reads")
    against_images: ImagesPath | None = Field(None, description="root of the image paths of a test set that is read")
    overlap: float = Field(0.7, gt=0, le=1, description="part of a test row's words, in threes, that tells of it")
    common: float = Field(0.01, gt=0, le=1, description="words in threes that more of the test rows have tell nothing")
    label: Label = execution("decontaminate")
