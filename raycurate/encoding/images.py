"""The distinct images of a window: decoded once, processed once, and the tokens that stand for each.

An image goes alone through the model's own image processor (so one damaged image fails its rows only), and the
processor's own description of its placeholder run (`replace_image_token`) is tokenised once per distinct description.

Cost: one decode and resize per distinct image, which dominates preparation; memory is the processed pixels.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from raycurate.errors import UserError

NUM_IMAGES = "batch_num_images"
"""Images of each row that has some, which LLaVA-OneVision's forward reads: a fact of rows, not of an image."""
_MAX_CACHED_RUNS = 1024
_SHAPES = ((1280, 960), (1024, 1024), (1600, 400))
"""Width and height of images whose size in memory is measured."""


class RowError(Exception):
    """A reason why one row fails, on its way to the list of failures."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class ImageRun:
    """The text and tokens that stand for an image in a conversation.

    `atomic` says that the run begins and ends with special tokens, so that it is tokenised the same way whatever text
    stands beside it. `wrapper_ids` are its special tokens other than placeholders.
    """

    text: str
    ids: np.ndarray
    num_visual: int
    atomic: bool
    wrapper_ids: frozenset[int]


@dataclass(frozen=True)
class ProcessedImage:
    """One distinct image as the model takes it; `nested` marks families with a leading axis [1, tiles, ...]."""

    tensors: dict[str, torch.Tensor]
    nested: bool
    run: ImageRun


class ImageReader:
    """Runs single images through one processor."""

    def __init__(self, processor: Any, pixel_dtype: torch.dtype) -> None:
        """Pixel values are cast to `pixel_dtype` at once, so that a window stays small."""
        self._processor = processor
        self._pixel_dtype = pixel_dtype
        merged = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs, return_tensors="pt")
        self._settings: dict[str, Any] = {**_further(processor, merged), **merged["images_kwargs"]}
        names = getattr(processor.image_processor, "model_input_names", ())
        self.looks_at_number = NUM_IMAGES in names
        """Whether an image of a row that has several is processed otherwise than one that is alone."""
        self._special_ids = frozenset(processor.tokenizer.get_added_vocab().values())
        self._runs: dict[str, ImageRun] = {}

    def read(self, image: Any, several: bool = False) -> ProcessedImage:
        """Process a PIL image, or what a function without arguments returns, as one of `several` of its row or alone.

        Raises:
            RowError: an image that cannot be decoded or processed.
        """
        try:
            loaded = image() if callable(image) else image
            loaded.load()
        except Exception as error:  # noqa: BLE001 - decoders raise many types on damaged bytes
            raise RowError("undecodable_image", describe(error)) from error
        try:
            if several and self.looks_at_number:  # beside itself: what the other is does not matter
                processed, runs = self._processor._process_images([[loaded, loaded]], **self._settings)
                processed = {name: value[: len(value) // 2 or 1] for name, value in processed.items()}
            else:
                processed, runs = self._processor._process_images([loaded], **self._settings)
            run = self._run(runs[0])
        except Exception as error:  # noqa: BLE001 - for example an aspect ratio that the processor refuses
            raise RowError("image_processor_error", describe(error)) from error
        unused = getattr(self._processor, "unused_input_names", ())
        used = {name: value for name, value in processed.items() if _is_numeric(value) and name not in unused}
        tensors = {name: self._tensor(value) for name, value in used.items()}
        nested = "pixel_attention_mask" in tensors and tensors["pixel_values"].ndim == 5
        if nested:
            tensors = {name: tensor.squeeze(0) for name, tensor in tensors.items()}
        return ProcessedImage(tensors, nested, run)

    def largest_bytes(self) -> int:
        """Bytes of a processed image of a photograph's size, of the shape that takes most (tiles follow the shape)."""
        found = 1
        for width, height in _SHAPES:
            image = Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))
            with contextlib.suppress(RowError):
                tensors = self.read(image).tensors.values()
                found = max(found, sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return found

    def _tensor(self, value: Any) -> torch.Tensor:
        tensor = torch.as_tensor(value)
        return tensor.to(self._pixel_dtype) if tensor.is_floating_point() else tensor

    def _run(self, text: str) -> ImageRun:
        """The tokens of one description of an image."""
        if text not in self._runs:
            if len(self._runs) >= _MAX_CACHED_RUNS:
                self._runs.clear()
            ids = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            image_id = self._processor.image_token_id
            self._runs[text] = ImageRun(
                text=text,
                ids=np.asarray(ids, dtype=np.int32),
                num_visual=ids.count(image_id),
                atomic=ids[0] in self._special_ids and ids[-1] in self._special_ids,
                wrapper_ids=self._special_ids.intersection(ids) - {image_id},
            )
        return self._runs[text]


class WindowImages:
    """The distinct images of a window, numbered by first appearance, and which row shows which."""

    def __init__(self, read: Callable[[Any, bool], ProcessedImage], *, by_number: bool) -> None:
        """Set up.

        Args:
            read: makes what stands for an image; its second argument says that the row has several.
            by_number: that argument matters (`ImageReader.looks_at_number`).
        """
        self._by_number = by_number
        self.processed: list[ProcessedImage] = []
        self.failed: dict[int, RowError] = {}
        self._slots: dict[int, tuple[int, ...]] = {}
        self._known: dict[object, int | RowError] = {}
        self._read = read

    def add(self, position: int, sample: Mapping[str, Any]) -> None:
        """Take in the images of the row at `position`; a damaged image fails every row that shows it."""
        keys = sample.get("image_keys") or [id(image) for image in sample["images"]]
        several = self._by_number and len(keys) > 1
        shown = []
        for name, image in zip(keys, sample["images"], strict=True):
            key = (name, several)
            if key not in self._known:
                self._known[key] = self._take_in(image, several)
            found = self._known[key]
            if isinstance(found, RowError):
                self.failed[position] = found
                return
            shown.append(found)
        self._slots[position] = tuple(shown)

    def shown(self, position: int) -> tuple[int, ...]:
        """The distinct images of a row, by number, in order."""
        return self._slots[position]

    def runs(self, position: int) -> list[ImageRun]:
        """The token runs of a row's images, in order."""
        return [self.processed[u].run for u in self._slots[position]]

    def _take_in(self, image: Any, several: bool) -> int | RowError:
        try:
            self.processed.append(self._read(image, several))
        except RowError as error:
            return error
        return len(self.processed) - 1


def concatenate(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate along axis 0, zero-padding the other axes to the largest, as image processors do."""
    sizes = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        if list(part.shape[1:]) != sizes:
            grown = part.new_zeros([part.shape[0], *sizes])
            grown[tuple(slice(0, n) for n in part.shape)] = part
            part = grown
        padded.append(part)
    return torch.cat(padded)


def placeholder_id(processor: Any) -> int | None:
    """The token that a template's image token becomes; None where it is several, so that runs are written as text.

    Mostly it is the one that stands for visual tokens too, `image_token_id`; Aya Vision has another for those.
    """
    ids = processor.tokenizer(processor.image_token, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 else None


def check_describes_images(processor: Any) -> None:
    """Raise `UserError` for a processor that does not say which tokens stand for an image."""
    describes = getattr(type(processor), "replace_image_token", None)
    inherited = any(
        base.__name__ == "ProcessorMixin" and vars(base).get("replace_image_token") is describes
        for base in type(processor).__mro__
    )
    names = [getattr(processor, name, None) for name in ("image_token", "image_token_id")]
    if describes is None or inherited or None in names:
        raise UserError(
            f"{type(processor).__name__} does not say which tokens stand for an image; choose a model that splices "
            "image tokens into the text, such as LLaVA, SmolVLM, Qwen-VL or InternVL."
        )


def _further(processor: Any, merged: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor's `_process_images` asks for beside the images and the settings of its image processor."""
    parameters = inspect.signature(processor._process_images).parameters.values()
    asked = [each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    given = {**merged, **merged.get("text_kwargs", {}), **merged.get("images_kwargs", {})}
    return {name: given[name] for name in asked if name in given}


def describe(error: Exception) -> str:
    """One line of an exception, for a report."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _is_numeric(value: Any) -> bool:
    """Whether a processor output is data with an axis of images or tiles in front."""
    return isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > 0
