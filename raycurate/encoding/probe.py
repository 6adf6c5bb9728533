"""Whether what is prepared for a model is what its own processor gives: asked once, before any row is read.

Rows are rendered, tokenised and expanded here, image by image, because a window shares images and must survive damaged
ones. That this ends in the same tensors as the processor's own call is not a matter of a list of families: a row with
one image, a row with two of other sizes and a row without an image go both ways, and tokens, token types, and every
image tensor have to agree.

Cost: four small images and three short rows, a fraction of a second; no weights are needed.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.inputs import image_tensors
from raycurate.encoding.prepare import Preparer
from raycurate.errors import UserError

LONGEST = 1 << 16
TYPES = "mm_token_type_ids"
TOLERANCE = 1e-3
"""Of pixel values, which are of the order of 1; an image alone and one in a batch may be resized by other kernels."""


def check_processor(processor: Any, name: str, config: Any = None) -> None:
    """Refuse a model whose processor gives other inputs than are prepared here.

    Args:
        processor: result of `load_processor`.
        name: of the model, for the message.
        config: of the model: its `image_token_id` must stand in rows with an image and in no other, and it must be
            given the types of tokens where it takes them.

    Raises:
        UserError: what differs.
    """
    preparer = Preparer(processor, max_length=LONGEST, token_budget=4 * LONGEST)
    for what, sample in _rows().items():
        told = _difference(processor, preparer, sample, config)
        if told:
            raise UserError(
                f"{name} cannot be used: what is prepared here for a row with {what} is not what its own "
                f"{type(processor).__name__} and model take: {told}. Choose another model, or another version of "
                "transformers."
            )


def _rows() -> dict[str, dict[str, Any]]:
    """The rows that are compared."""
    images = {"one image": [(61, 47)], "two images": [(47, 61), (83, 40)], "no image": []}
    return {
        what: {
            "key": what,
            "messages": [
                {"role": "user", "text": "<image>\n" * len(sizes) + "What is this?"},
                {"role": "assistant", "text": "A picture."},
                {"role": "user", "text": "Are you sure?"},
                {"role": "assistant", "text": "Yes."},
            ],
            "images": [_picture(width, height, seed) for seed, (width, height) in enumerate(sizes)],
        }
        for what, sizes in images.items()
    }


def _picture(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _difference(processor: Any, preparer: Preparer, sample: dict[str, Any], config: Any) -> str:
    """What differs for one row; '' where nothing does."""
    window = preparer.prepare([sample])
    if window.failures:
        return f"the row fails here ({window.failures[0].reason}: {window.failures[0].detail})"
    try:
        own = _own(processor, preparer, sample)
    except Exception as error:  # noqa: BLE001 - a processor may raise anything; it is told
        return f"its own call fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    (batch,) = window.batches
    return _compare(_prepared(batch), own) or _unlike_model(config, own, bool(sample["images"]))


def _unlike_model(config: Any, own: dict[str, Any], has_images: bool) -> str:
    """What the model, by its configuration, takes otherwise than its processor gives; '' where nothing is known."""
    image_id = getattr(config, "image_token_id", None)
    if image_id is not None and bool((own["input_ids"] == image_id).any()) != has_images:
        return f"the configuration's image_token_id {image_id} is {'not ' if has_images else ''}in it"
    kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if TYPES not in own and kind is not None and TYPES in inspect.signature(kind.forward).parameters:
        return f"the model takes '{TYPES}', which the processor does not give"
    return ""


def _own(processor: Any, preparer: Preparer, sample: dict[str, Any]) -> dict[str, Any]:
    """The processor's own tensors, images given as its chat templates give them: a list for each row."""
    text = preparer.render(sample["messages"])
    given = {"text": [text], "return_tensors": "pt", "add_special_tokens": preparer.adds_special_tokens}
    if not sample["images"]:
        found = processor(**given)
    else:
        try:
            found = processor(images=[sample["images"]], **given)
        except (ValueError, TypeError):  # some take a flat list only
            found = processor(images=sample["images"], **given)
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if TYPES not in tensors and "token_type_ids" in tensors:  # Gemma 3's name for them
        tensors[TYPES] = tensors.pop("token_type_ids")
    return tensors


def _prepared(batch: PreparedBatch) -> dict[str, torch.Tensor]:
    """The tensors of a batch of one row under the names of processors."""
    tensors = {"input_ids": batch.input_ids_BT, **image_tensors(batch, batch.image_index_S.tolist())}
    if batch.mm_token_type_ids_BT is not None:
        tensors[TYPES] = batch.mm_token_type_ids_BT
    return tensors


def _compare(prepared: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str:
    """The first difference. Names that only say how many rows or tokens there are may be missing on either side."""
    for name in ("input_ids", *sorted((own.keys() | prepared.keys()) - {"input_ids", "attention_mask"})):
        here, there = prepared.get(name), own.get(name)
        if here is None or there is None:
            if name in _MAY_BE_MISSING:
                continue
            return f"'{name}' is {'not prepared' if here is None else 'not of the processor'}"
        if here.shape != there.shape:
            return f"'{name}' has the shape {list(here.shape)}, the processor's {list(there.shape)}"
        if (here.double() - there.double()).abs().max() > TOLERANCE:
            return f"'{name}' has other values"
    return ""


_MAY_BE_MISSING = frozenset({"num_crops", "num_patches", "image_num_patches"})
