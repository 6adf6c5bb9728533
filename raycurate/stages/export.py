"""``export``: the kept samples as a file or folder that trainers read, streamed shard by shard in canonical order."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import ExportConfig
from raycurate.errors import UserError, unknown_name
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.samples.exporters import (
    EXPORTERS,
    SAYS_WHAT_IS_TRAINED,
    ExportCounts,
    ExportFacts,
    ExportOptions,
    samples_from_tables,
)
from raycurate.samples.fiftyone import DECIDED, SHOWS_ALL, with_decisions
from raycurate.samples.file_readme import export_file
from raycurate.samples.images import ImageRoot, accepted_limits
from raycurate.samples.task_folders import FOLDERS, TASK_FOLDERS, export_folder
from raycurate.stages.engine.exported import note_export
from raycurate.stages.engine.lineage import required
from raycurate.stages.selecting.weights import read_task_weights
from raycurate.training.weights import weights_of

log = logging.getLogger("raycurate")
_KINDS = {False: "relative", True: "absolute", None: "bytes"}


def export(run: Run, config: ExportConfig) -> int:
    """Write the kept samples of a selection to ``config.out``; returns the number of rows."""
    if config.format not in EXPORTERS and config.format not in FOLDERS:
        raise unknown_name("export format", config.format, (*EXPORTERS, *FOLDERS))
    selection = run.noun("selection", config.selection)
    made_from = required(selection).description["config"]["samples"]
    samples = run.noun("samples", config.samples or made_from)
    ingested = required(samples)
    manifest = required(selection, of=ingested)

    def kept() -> Iterator[pa.Table]:
        for shard in range(ingested.shards):
            decided = selection.read_part(shard, ["key", *DECIDED])
            rows = samples.read_part(shard)
            assert rows["key"].equals(decided["key"]), f"samples and selection differ in shard {shard}"
            yield with_decisions(rows, decided) if config.format in SHOWS_ALL else rows.filter(decided["kept"])

    several, kinds = _images_of(samples, ingested.shards)
    root = config.images or ingested.description["config"].get("images")
    images = ImageRoot.of(None if kinds == {"bytes"} else root)
    options = ExportOptions(
        images=images,
        embed=config.embed_images,
        blocks=config.content == "blocks",
        one_kind=len(kinds) < 2,
        image_lists=several,
        max_image_bytes=accepted_limits(ingested.description).max_bytes,
        train_all=config.train_all,
        join_turns=config.join_turns,
    )
    rows = samples_from_tables(kept())
    facts = _facts(run, config, manifest, ingested)
    if config.format in FOLDERS:
        counts = export_folder(rows, config.out, config.format, options, facts)
    else:
        counts = export_file(rows, config.out, config.format, options, facts)
        if images.root is not None and options.one_kind and config.format == "llava":
            log.info("export: image paths count from %s", images.root)
    _warn(counts, config.format)
    note_export(run, config, manifest.fingerprint)
    expected = ingested.rows_out if config.format in SHOWS_ALL else manifest.metrics["kept"]
    assert counts.rows == expected, f"exported {counts.rows} rows of {expected}"
    return counts.rows


def _images_of(samples: Noun, shards: int) -> tuple[bool, set[str]]:
    """Whether a row has several images, and how all of them are told: by relative or absolute paths, or as bytes."""
    several, kinds = False, set()
    for shard in range(shards):
        column = samples.read_part(shard, ["images.list.element.path"])["images"]
        several = several or (pc.max(pc.list_value_length(column)).as_py() or 0) > 1
        paths = pc.struct_field(pc.list_flatten(column), "path")
        kinds |= {_KINDS[is_absolute] for is_absolute in pc.unique(pc.starts_with(paths, "/")).to_pylist()}
    return several, kinds


def _facts(run: Run, config: ExportConfig, selection: Manifest, ingested: Manifest) -> ExportFacts:
    """What an export says of itself. Weights of tasks that this selection keeps no row of are no mistake."""
    if config.format not in TASK_FOLDERS:
        _refuse_weights(config)
    weights = read_task_weights(run, config.task_weights)
    if weights is not None:
        weights_of((), weights, known=ingested.metrics["tasks"])
    return ExportFacts(f"{run.uri}, selection `{config.selection}`", selection.fingerprint, weights)


def _refuse_weights(config: ExportConfig) -> None:
    """Raise `UserError` for weights that the format has no place for."""
    if config.task_weights is not None:
        raise UserError(
            f"the format '{config.format}' has no place for task weights. Take "
            f"{', '.join(TASK_FOLDERS)}, which have a part per task, or `finetune --weights`."
        )


def _warn(counts: ExportCounts, format: str) -> None:
    """Say what a trainer would read otherwise than it is meant."""
    if counts.context_only and format not in SAYS_WHAT_IS_TRAINED:
        log.warning(
            "export: %d rows have answers that are context only; a trainer of the format '%s' will learn them",
            counts.context_only,
            format,
        )
    if counts.without_image:
        log.warning("export: %d rows have no image and are left out, as FiftyOne shows images", counts.without_image)
    if counts.turns_joined:
        log.info("export: %d rows had turns of one role in a row, which were written as one", counts.turns_joined)
    if counts.media_texts:
        log.warning(
            "export: %d rows hold the text <video> or <audio>, which LLaMA-Factory and ms-swift take for a file",
            counts.media_texts,
        )
