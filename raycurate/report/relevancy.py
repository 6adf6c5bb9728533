"""Relevancy maps of a stated sample of rows: which patches of a picture made an answer, layer by layer (Eq. 8).

The rows are those with a picture and the smallest seeded hash of their key. The model is the one that made the features
of the selection, or another that is asked for. A row with several pictures is shown with its first one.

Cost: a model is loaded, then about three of its forward passes a row, one row at a time, on a GPU where there is one,
else on this process's cores. Rows of more than `LONGEST` tokens are passed over and counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.token_batches import AnswerPreparer
from raycurate.errors import UserError
from raycurate.features.patches import patch_map
from raycurate.features.relevancy_pass import RelevancyPass
from raycurate.models.adapter import VLM, auto_layers, load_vlm
from raycurate.models.positions import longest_row
from raycurate.report.gallery import card_of, pictures_of
from raycurate.report.overlays import overlay
from raycurate.report.relevancy_facts import AskedMaps, Looked, Map, RelevancyMaps
from raycurate.report.thumbnails import data_uri
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.lineage import nouns_behind
from raycurate.stages.workers.fragments import as_samples
from raycurate.views.diff import finished_selection
from raycurate.views.rows import Wanted, chosen_rows

LONGEST = 2048
MOST_LOOKED_AT = 64
"""Rows that are looked at for each that is wanted, as rows without a picture are passed over."""
Floats = NDArray[np.float64]


def relevancy_maps(run: Run, label: str, asked: AskedMaps) -> RelevancyMaps:
    """Maps of a sample of the rows of a selection.

    Raises:
        UserError: no model is known, or it cannot be loaded or looked into.
    """
    noun, manifest = finished_selection(run, label)
    samples = run.noun("samples", manifest.description["config"]["samples"])
    model, trusted = (asked.model, False) if asked.model is not None else _model_of(run, noun, manifest)
    rows = _rows_with_pictures(run, label, asked)
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", "auto") if on_gpu else ("cpu", "float32")
    vlm = load_vlm(model, device=device, dtype=dtype, trust_remote_code=trusted, attention="eager")
    longest = longest_row(model, LONGEST, trust_remote_code=trusted)
    preparer = AnswerPreparer(vlm.processor, max_length=longest, token_budget=longest, max_rows=1)
    usable = [layer for layer in auto_layers(vlm.num_layers) if layer in vlm.attention_layers]
    looking = RelevancyPass(vlm, usable)
    pictures, found, passed, cut_off = pictures_of(samples), [], Counter[str](), Counter[str]()
    loaded = as_samples(rows, pictures.root.root, pictures.limits)
    for row, sample in zip(rows, loaded, strict=True):
        batches, rejects = preparer.prepare_answers([sample])
        looked = None if rejects else _looked(looking, vlm, batches[0], sample["images"][0])
        if looked is None:
            passed[rejects[0].reason if rejects else "unknown_layout"] += 1
        else:
            probability, share, maps, not_followed = looked
            found.append(Looked(card_of(row, row, pictures), probability, share, maps))
            cut_off.update([not_followed] if not_followed else [])
    return RelevancyMaps(model, asked.seed, found, dict(passed), dict(cut_off))


def _model_of(run: Run, selection: Noun, manifest: Manifest) -> tuple[str, bool]:
    """The model that made the features of a selection, else features of its samples; whether its own code may run."""
    samples = manifest.description["config"]["samples"]
    behind = list(nouns_behind(selection, manifest).values())
    others = [found for each in run.nouns() if each.noun == "features" and (found := each.manifest()) is not None]
    for made in [*behind, *others]:
        config = made.description["config"]
        if made.noun == "features" and config.get("samples") == samples and "model" in config:
            return str(config["model"]), bool(config.get("trust_remote_code", False))
    raise UserError(f"{run.uri} has no features that name a model; name one with --relevancy-model")


def _rows_with_pictures(run: Run, label: str, asked: AskedMaps) -> list[dict[str, Any]]:
    """The first rows by hash that have a picture, out of the first `MOST_LOOKED_AT` times as many."""
    limit = asked.rows
    while True:
        total, found = chosen_rows(run, label, Wanted(limit=limit, seed=asked.seed))
        shown = [row for row in found if row["images"]]
        if len(shown) >= asked.rows or limit >= min(total, MOST_LOOKED_AT * asked.rows):
            return shown[: asked.rows]
        limit *= 4


def _looked(
    looking: RelevancyPass, vlm: VLM, batch: PreparedBatch, load: Any
) -> tuple[float, float, list[Map], str] | None:
    """Probability, share, maps and `not_followed` of one row; None where the layout of its tokens is not known."""
    seen = looking.look(batch)
    visual_T = (batch.input_ids_BT[0] == vlm.image_token_id).numpy()
    first = int(batch.image_index_S[0])
    own = int(batch.image_tokens_U[first])
    picture = _as_seen(load(), vlm)
    maps = []
    layers = [(f"layer {layer}", each_T) for layer, each_T in seen.layers.items()]
    values = [(name, value_T[visual_T]) for name, value_T in [*layers, ("all layers", seen.total_T)]]
    if seen.tower_V is not None:
        values.append(("through the tower", seen.tower_V))
    for name, value_V in values:
        value_V = value_V[:own].astype(np.float64)
        map_RC = patch_map(value_V, picture.size, grid=_grid(batch, first), tiles=_tiles(batch, first))
        if map_RC is None:
            return None
        maps.append(Map(name, data_uri(overlay(picture, map_RC)), _in_words(name, map_RC)))
    asking_T = np.roll(batch.text_mask_BT[0].numpy().astype(bool), -1)
    elsewhere = float(seen.total_T.sum() - seen.total_T[asking_T].sum())
    share = float(seen.total_T[visual_T].sum()) / elsewhere if elsewhere > 0 else 0.0
    return seen.probability, share, maps, seen.not_followed


def _as_seen(picture: Image.Image, vlm: VLM) -> Image.Image:
    """What of a picture reaches the model: its middle square, where the processor cuts that out."""
    if not getattr(vlm.processor.image_processor, "do_center_crop", False):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _grid(batch: PreparedBatch, image: int) -> tuple[int, int] | None:
    grid = batch.image_inputs.get("image_grid_thw")
    return None if grid is None else (int(grid[image][1]), int(grid[image][2]))


def _tiles(batch: PreparedBatch, image: int) -> int:
    return batch.image_splits["pixel_values"][image] if "pixel_values" in batch.image_splits else 1


def _in_words(name: str, map_RC: Floats) -> str:
    """For those who do not see the map."""
    rows, columns = map_RC.shape
    row, column = divmod(int(map_RC.argmax()), columns)
    quarter = np.sort(map_RC, axis=None)[::-1][: max(1, map_RC.size // 4)]
    total = float(map_RC.sum())
    held = float(quarter.sum()) / total if total > 0 else 0.0
    return (
        f"{name}: strongest in row {row + 1} of {rows}, column {column + 1} of {columns}; "
        f"a quarter of the patches holds {held:.0%}"
    )
