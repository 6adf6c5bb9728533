"""The settings of ``ingest``, and of one source of a mixture."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycurate.run.paths import ImagesPath, LocalPath, TaskMapName
from raycurate.settings import Label, NounConfig, execution, rejected_share

SourceFormat = Literal["auto", "llava", "jsonl", "parquet", "huggingface", "webdataset", "hub"]
MIXTURE = "mixture://"
"""How the name of several sources begins."""


class SourceConfig(BaseModel):
    """One source of a mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: LocalPath = Field(description="file, folder, glob or URI")
    format: SourceFormat = Field("auto", description="as of a source alone")
    columns: dict[str, str] | None = Field(None, description="of a table, as of a source alone")
    task: str | None = Field(None, min_length=1, description="of all its rows; null: as they say it, else its name")
    root: str = Field("", description="folder below images that its image paths start from")
    weight: float | None = Field(None, gt=0, description="share of the mixture's rows, relative to the other weights")
    cap: int | None = Field(None, ge=1, description="most rows that it gives")


class IngestConfig(NounConfig):
    """``ingest``: read, validate, normalise."""

    command_line = (
        "images",
        "format",
        "columns",
        "row_function=--row",
        "task_map",
        "append",
        "strict",
    )

    source: LocalPath = Field(description="file, folder, glob or URI of the dataset; not with sources")
    sources: dict[str, SourceConfig] | None = Field(
        None,
        min_length=1,
        description="several, by name, as one mixture: path, format, columns, task, root, weight, cap",
    )
    images: ImagesPath | None = Field(None, description="root of the image paths; ROOT:OTHER: links may lead to OTHER")
    format: SourceFormat = Field(
        "auto", description="hub: SOURCE is ORG/NAME[@REVISION][/FOLDER] of the Hugging Face hub"
    )
    columns: dict[str, str] | None = Field(
        None,
        description="of a table, as question=q,answer=a,image=i; also input, system, history, conversations, id",
    )
    row_function: str | None = Field(None, description="package.module:function of yours, a row in, a row or None out")
    task_column: str | None = Field(None, description="column that names the task; default: task, source and the like")
    keep: tuple[str, ...] | None = Field(
        None, description="columns of texts that `select --where` can use; it can use numbers anyway"
    )
    task_map: TaskMapName | None = Field(None, description="'llava665k' or a YAML file: image-path prefix -> task")
    check_images: bool = Field(True, description="decode every image once; False only checks that it is there")
    max_pixels: int = Field(50_000_000, ge=1)
    max_image_bytes: int = Field(64 << 20, ge=1)
    max_chars: int = Field(200_000, ge=1, description="longest conversation that is accepted")
    max_turns: int = Field(256, ge=2)
    max_images: int = Field(64, ge=1)
    video_frames: int | None = Field(None, ge=0, description="show videos as so many frames; 0: refuse their rows")
    video_max_mb: int | None = Field(None, ge=1, description="largest video that is opened; default: 1024")
    video_max_seconds: float | None = Field(None, gt=0, description="longest video that is read; default: 7200")
    video_max_side: int | None = Field(None, ge=16, description="longest side of a frame in pixels; default: 768")
    insert_missing_marks: bool = Field(False, description="put a missing <image> mark first, instead of a reject")
    drop_leading_answer: bool = Field(False, description="drop answers before the first question, as LLaVA's trainer")
    split: str | None = Field(None, description="which split: of a DatasetDict, else by file names or a README")
    hash_range: tuple[float, float] | None = Field(
        None,
        description="keep rows whose first image's hash is in this part of [0, 1): disjoint parts of a source",
    )
    rows_per_shard: int = Field(2048, ge=1, description="rows in one part, the unit of work of the row-wise stages")
    buckets: int = Field(1024, ge=1, le=65536, description="fine hash ranges; a shard is a run of them")
    append: bool = execution(False, description="add the rows of SOURCE to the samples that are there")
    slice_rows: int = execution(10_000, ge=1, description="source rows that one reading task takes")
    strict: bool = execution(False, description="the first rejected row is an error")
    max_rejected: float = rejected_share()
    label: Label = execution("main", description="label of the samples that are written")
    max_tasks: int = execution(64, ge=1, description="tasks in flight")
    threads: int = execution(4, ge=1, description="threads that fetch and decode images, per task")

    @model_validator(mode="before")
    @classmethod
    def _name_the_mixture(cls, values: Any) -> Any:
        """Several sources stand under one name wherever a source is told."""
        if not isinstance(values, dict) or not isinstance(values.get("sources"), dict):
            return values
        named = f"{MIXTURE}{'+'.join(sorted(map(str, values['sources'])))}"
        if values.get("source", named) != named:
            raise ValueError(f"source is {values['source']!r} beside sources: put it among them, or leave it out")
        return {**values, "source": named}

    @model_validator(mode="after")
    def _check_sources(self) -> IngestConfig:
        for name in self.sources or ():
            if not name or "/" in name or name != name.strip():
                raise ValueError(f"sources: {name!r} is no name of a source; give one without '/', for example charts")
        weighted = [name for name, each in (self.sources or {}).items() if each.weight is not None]
        if weighted and len(weighted) < len(self.sources or ()):
            others = [name for name in self.sources or () if name not in weighted]
            raise ValueError(
                f"sources: {', '.join(weighted)} have a weight and {', '.join(others)} have none: weigh all or none; "
                "cap bounds the rows of one"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _name_on_the_hub(cls, values: Any) -> Any:
        """A name on the hub is no path."""
        if isinstance(values, dict) and values.get("format") == "hub" and "://" not in str(values.get("source")):
            return {**values, "source": f"hub://{values.get('source')}"}
        return values

    @model_validator(mode="after")
    def _check_range(self) -> IngestConfig:
        if self.hash_range is not None and not 0 <= self.hash_range[0] < self.hash_range[1] <= 1:
            low, high = self.hash_range
            raise ValueError(f"hash_range [{low:g}, {high:g}] must ascend within [0, 1], for example [0, 0.5]")
        return self
