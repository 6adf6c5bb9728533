"""A window of samples to model-ready batches: render, tokenise, process each distinct image once, pack.

Per window, in a deterministic order: conversations are rendered (one template call), tokenised (one tokenizer call)
with one placeholder per image, distinct images go through the image processor once, placeholders are expanded to the
run of tokens that the processor's own `replace_image_token` writes, and rows are packed into batches.

Text mask: the tokens whose activations make the text half of a feature are all tokens of all turns, answers included,
except the template's prefix (see `conversation.py`), special tokens that the tokenizer adds (BOS), and every token
that an `<image>` mark expands to: placeholders are visual, and image wrappers and row separators
(`<fake_token_around_image>`, `<img>`, `<|vision_start|>`) are neither, so that a many-tiled image does not drown
the words. Role headers and end-of-turn tokens between turns count as text, as in the published code.

Packing: rows are sorted by (length bucket, first image, key), buckets growing by 1/8, so rows of one image and like
length stay together. A batch ends where the padded tokens would pass the budget or the rows the limit, and, once it
holds a quarter of the budget, where more than 15% of it would be padding.

A row that cannot be used is returned as a failure with a reason, never cut short: `overlong` (more than max_length
tokens after image expansion), `template_error`, `image_count_mismatch`, `special_token_in_text`, `undecodable_image`,
`image_processor_error`, `no_text_tokens`.

Cost: two-thirds tokenizer and template, the rest image resizing; memory per window is its distinct images in
`pixel_dtype` plus its tokens. Limits: processors that do not describe their image expansion
(`replace_image_token`) are refused, videos are not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raycurate.errors import UserError
from raycurate.features.batch import PreparedBatch
from raycurate.features.conversation import ConversationRenderer, count_marks

# No tokenizer in use averages more characters per token; longer texts are refused before they are tokenised.
_MAX_CHARACTERS_PER_TOKEN = 64
_BUCKET_GROWTH = math.log(1.125)
_MAX_PADDING = 0.15
_WORTH_RUNNING = 4


@dataclass(frozen=True)
class RowFailure:
    """A row that is not in any batch: its position in the window, its key, a countable reason and the detail."""

    row: int
    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class PreparedWindow:
    """The batches of a window and its failed rows; together they hold every row once."""

    batches: list[PreparedBatch]
    failures: list[RowFailure]


class _RowError(Exception):
    """A reason why one row fails, on its way to a RowFailure."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class _Image:
    """One distinct image, processed: its tensors and the token ids that stand for it."""

    tensors: dict[str, torch.Tensor]
    nested: bool
    ids: np.ndarray
    num_visual: int


@dataclass(frozen=True)
class _Row:
    position: int
    key: str
    ids_T: np.ndarray
    text_T: np.ndarray
    images: tuple[int, ...]


class Preparer:
    """Turns windows of samples into batches for one model. Holds a processor, no weights."""

    def __init__(
        self,
        processor: Any,
        *,
        max_length: int = 2048,
        token_budget: int = 16384,
        max_rows: int = 64,
        padding_side: str = "right",
        pixel_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Set up for one processor.

        Args:
            processor: result of `load_processor`.
            max_length: longest row in tokens, images expanded.
            token_budget: most padded tokens of a batch; a row longer than that makes a batch of its own.
            max_rows: most rows of a batch.
            padding_side: "right" (fastest: causal models then need no attention mask) or "left".
            pixel_dtype: dtype that pixel values travel in; the model's own dtype loses nothing.

        Raises:
            UserError: a setting out of range, or a processor that does not describe its image tokens.
        """
        for name, value in (("max_length", max_length), ("token_budget", token_budget), ("max_rows", max_rows)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")
        if padding_side not in ("left", "right"):
            raise UserError(f"padding_side is '{padding_side}'; it must be 'left' or 'right'.")
        if getattr(processor, "image_token", None) is None or not hasattr(processor, "replace_image_token"):
            raise UserError(
                f"{type(processor).__name__} does not say which tokens stand for an image; choose a model that "
                "splices image tokens into the text, such as LLaVA, SmolVLM, Qwen-VL or InternVL."
            )
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._max_length = max_length
        self._token_budget = token_budget
        self._max_rows = max_rows
        self._left = padding_side == "left"
        self._pixel_dtype = pixel_dtype
        self._renderer = ConversationRenderer(processor)
        self._image_id = int(processor.image_token_id)
        self._pad_id = next(
            (i for i in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id) if i is not None), 0
        )
        self._image_kwargs = _image_settings(processor)
        self._type_ids = [i for i in getattr(processor, "image_token_ids", []) if i is not None]
        self._wrappers = self._wrapper_ids()
        self._foreign = [t for t in (getattr(processor, n, None) for n in ("video_token", "audio_token")) if t]
        self._adds_special = self._renderer.adds_special_tokens()
        self._expansions: dict[str, np.ndarray] = {}

    def _wrapper_ids(self) -> list[int]:
        """Special tokens that the template writes around an image; they stand for no word."""
        special = set(self._tokenizer.get_added_vocab().values())
        ids = self._tokenizer(self._renderer.image_wrapper(), add_special_tokens=False)["input_ids"]
        return sorted(special.intersection(ids) - {self._image_id})

    def prepare(self, samples: Sequence[Mapping[str, Any]]) -> PreparedWindow:
        """Prepare one window.

        Args:
            samples: mappings with `key` (str), `messages` (list of {role, text} with `<image>` marks), `images`
                (list of PIL images, or functions without arguments that return one, called once per distinct
                image) and, optionally, `image_keys` (list of str): equal keys mean the same image. Without them
                only the very same Python object counts as the same image.

        Returns:
            Batches and failures that together hold each row exactly once.
        """
        failures: list[RowFailure] = []
        texts = self._texts(samples, failures)
        images = self._images(samples, texts)
        rows = self._rows(samples, texts, images, failures)
        batches = [self._collate(group, images.processed) for group in self._pack(rows)]
        return PreparedWindow(batches=batches, failures=sorted(failures, key=lambda failure: failure.row))

    def _texts(self, samples: Sequence[Mapping[str, Any]], failures: list[RowFailure]) -> dict[int, str]:
        """Rendered conversation per row position, rows that fail left out."""
        positions = []
        for i, sample in enumerate(samples):
            try:
                self._check(sample)
                positions.append(i)
            except _RowError as error:
                failures.append(RowFailure(i, sample["key"], error.reason, error.detail))
        texts = {}
        rendered = self._renderer.render_all([samples[i]["messages"] for i in positions])
        for i, text in zip(positions, rendered, strict=True):
            if isinstance(text, Exception):
                failures.append(RowFailure(i, samples[i]["key"], "template_error", _describe(text)))
                continue
            num_images, num_tokens = len(samples[i]["images"]), text.count(self._processor.image_token)
            if num_tokens != num_images:
                detail = f"the rendered text has {num_tokens} image tokens for {num_images} images"
                failures.append(RowFailure(i, samples[i]["key"], "special_token_in_text", detail))
            else:
                texts[i] = text
        return texts

    def _check(self, sample: Mapping[str, Any]) -> None:
        """Raise `_RowError` for a sample that is wrong before any model code sees it."""
        messages, num_images = sample["messages"], len(sample["images"])
        if not messages:
            raise _RowError("template_error", "the conversation is empty")
        marks = count_marks(messages)
        if marks != num_images:
            raise _RowError("image_count_mismatch", f"{marks} <image> marks for {num_images} images")
        if sum(len(m["text"]) for m in messages) > self._max_length * _MAX_CHARACTERS_PER_TOKEN:
            raise _RowError("overlong", f"over {self._max_length * _MAX_CHARACTERS_PER_TOKEN} characters")
        for token in self._foreign:
            if any(token in m["text"] for m in messages):
                raise _RowError("special_token_in_text", f"the text holds the special token {token}")

    def _images(self, samples: Sequence[Mapping[str, Any]], texts: Mapping[int, str]) -> _WindowImages:
        """Process the distinct images of the rows that rendered, numbered by first appearance."""
        window = _WindowImages()
        for i in sorted(texts):
            window.add(i, samples[i], self._process_image)
        return window

    def _process_image(self, image: Any) -> _Image:
        """One image through the image processor; raises `_RowError`."""
        try:
            loaded = image() if callable(image) else image
            loaded.load()
        except Exception as error:  # noqa: BLE001 - decoders raise many types on damaged bytes
            raise _RowError("undecodable_image", _describe(error)) from error
        try:
            processed, replacements = self._processor._process_images([loaded], **self._image_kwargs)
            ids = self._expansion(replacements[0])
        except Exception as error:  # noqa: BLE001 - for example an aspect ratio that the processor refuses
            raise _RowError("image_processor_error", _describe(error)) from error
        tensors = {name: self._image_tensor(value) for name, value in processed.items() if _is_tensor(value)}
        nested = tensors["pixel_values"].ndim == 5 and "pixel_attention_mask" in tensors
        if nested:
            tensors = {name: tensor.squeeze(0) for name, tensor in tensors.items()}
        return _Image(tensors, nested, ids, int((ids == self._image_id).sum()))

    def _image_tensor(self, value: Any) -> torch.Tensor:
        tensor = torch.as_tensor(value)
        return tensor.to(self._pixel_dtype) if tensor.is_floating_point() else tensor

    def _expansion(self, replacement: str) -> np.ndarray:
        """Token ids of the text that stands for one image."""
        if replacement not in self._expansions:
            ids = self._tokenizer(replacement, add_special_tokens=False)["input_ids"]
            if len(self._expansions) >= 1024:
                self._expansions.clear()
            self._expansions[replacement] = np.asarray(ids, dtype=np.int32)
        return self._expansions[replacement]

    def _rows(
        self,
        samples: Sequence[Mapping[str, Any]],
        texts: Mapping[int, str],
        images: _WindowImages,
        failures: list[RowFailure],
    ) -> list[_Row]:
        """Tokenised rows with their images expanded; rows that fail go to `failures`."""
        positions = [i for i in sorted(texts) if i not in images.failed]
        failures.extend(
            RowFailure(i, samples[i]["key"], error.reason, error.detail) for i, error in images.failed.items()
        )
        rows: list[_Row] = []
        if not positions:
            return rows
        encoded = self._tokenizer(
            [texts[i] for i in positions], add_special_tokens=self._adds_special, return_special_tokens_mask=True
        )
        for n, i in enumerate(positions):
            prefix = self._renderer.prefix_length(samples[i]["messages"], texts[i])
            ids_T = np.asarray(encoded["input_ids"][n], dtype=np.int32)
            text_T = np.asarray(encoded["special_tokens_mask"][n]) == 0
            text_T[: self._first_content_token(encoded, n, prefix, texts[i])] = False
            try:
                rows.append(self._expand(i, samples[i]["key"], ids_T, text_T, images))
            except _RowError as error:
                failures.append(RowFailure(i, samples[i]["key"], error.reason, error.detail))
        return rows

    def _first_content_token(self, encoded: Any, n: int, prefix: int, text: str) -> int:
        """Index of the first token that holds a character from `prefix` on."""
        if not self._tokenizer.is_fast:
            ids = self._tokenizer(text[:prefix], add_special_tokens=self._adds_special)["input_ids"]
            return len(ids)
        for character in range(prefix, len(text)):
            token = encoded.char_to_token(n, character)
            if token is not None:
                return token
        return len(encoded["input_ids"][n])

    def _expand(self, position: int, key: str, ids_T: np.ndarray, text_T: np.ndarray, images: _WindowImages) -> _Row:
        """Replace each placeholder by its image's tokens; raises `_RowError`."""
        text_T &= ~np.isin(ids_T, [self._image_id, *self._wrappers])
        shown = images.slots.get(position, ())
        at = np.flatnonzero(ids_T == self._image_id)
        if len(at) != len(shown):
            raise _RowError("special_token_in_text", f"{len(at)} image tokens for {len(shown)} images")
        length = len(ids_T) + sum(len(images.processed[u].ids) - 1 for u in shown)
        if length > self._max_length:
            raise _RowError("overlong", f"{length} tokens, the limit is {self._max_length}")
        if not text_T.any():
            raise _RowError("no_text_tokens", "no token of the conversation is text")
        if shown:
            id_parts, text_parts, start = [], [], 0
            for stop, u in zip(at.tolist(), shown, strict=True):
                id_parts += [ids_T[start:stop], images.processed[u].ids]
                text_parts += [text_T[start:stop], np.zeros(len(images.processed[u].ids), dtype=bool)]
                start = stop + 1
            ids_T = np.concatenate([*id_parts, ids_T[start:]])
            text_T = np.concatenate([*text_parts, text_T[start:]])
        return _Row(position, key, ids_T, text_T, shown)

    def _pack(self, rows: list[_Row]) -> list[list[_Row]]:
        """Rows to batches under the token budget, neighbours by length and image."""

        def order(row: _Row) -> tuple[int, int, str, int]:
            bucket = int(math.log(len(row.ids_T)) / _BUCKET_GROWTH)
            return bucket, row.images[0] if row.images else -1, row.key, row.position

        groups: list[list[_Row]] = []
        longest = used = 0
        for row in sorted(rows, key=order):
            length = len(row.ids_T)
            if not groups or self._is_full(len(groups[-1]), longest, used, length):
                groups.append([])
                longest = used = 0
            groups[-1].append(row)
            longest, used = max(longest, length), used + length
        return groups

    def _is_full(self, num_rows: int, longest: int, used: int, length: int) -> bool:
        """Whether a batch of `num_rows` rows and `used` tokens should not take a row of `length` tokens."""
        padded = max(longest, length) * (num_rows + 1)
        worth_running = longest * num_rows * _WORTH_RUNNING >= self._token_budget
        wasteful = padded - used - length > _MAX_PADDING * padded
        return num_rows >= self._max_rows or padded > self._token_budget or (worth_running and wasteful)

    def _collate(self, rows: list[_Row], processed: Sequence[_Image]) -> PreparedBatch:
        """Pad rows and concatenate the tensors of the images that they show."""
        length = max(len(row.ids_T) for row in rows)
        ids_BT = np.full((len(rows), length), self._pad_id, dtype=np.int32)
        attention_BT = np.zeros((len(rows), length), dtype=bool)
        text_BT = np.zeros((len(rows), length), dtype=bool)
        for b, row in enumerate(rows):
            span = slice(length - len(row.ids_T), length) if self._left else slice(0, len(row.ids_T))
            ids_BT[b, span], attention_BT[b, span], text_BT[b, span] = row.ids_T, True, row.text_T
        slots = [u for row in rows for u in row.images]
        distinct = list(dict.fromkeys(slots))
        where = {u: n for n, u in enumerate(distinct)}
        shown = [processed[u] for u in distinct]
        names = list(shown[0].tensors) if shown else []
        types_BT = np.isin(ids_BT, self._type_ids) & attention_BT
        wants_types = bool(getattr(self._processor, "return_mm_token_type_ids", False))
        return PreparedBatch(
            keys=tuple(row.key for row in rows),
            rows=tuple(row.position for row in rows),
            input_ids_BT=torch.from_numpy(ids_BT),
            attention_mask_BT=torch.from_numpy(attention_BT),
            text_mask_BT=torch.from_numpy(text_BT),
            image_counts=tuple(len(row.images) for row in rows),
            image_index_S=torch.tensor([where[u] for u in slots], dtype=torch.int32),
            image_tokens_U=torch.tensor([image.num_visual for image in shown], dtype=torch.int32),
            image_inputs={name: _concatenate([image.tensors[name] for image in shown]) for name in names},
            image_splits={name: tuple(image.tensors[name].shape[0] for image in shown) for name in names},
            mm_token_type_ids_BT=torch.from_numpy(types_BT.astype(np.int32)) if wants_types else None,
            nested_images=bool(shown) and shown[0].nested,
        )


class _WindowImages:
    """The distinct images of a window and which row shows which."""

    def __init__(self) -> None:
        self.processed: list[_Image] = []
        self.slots: dict[int, tuple[int, ...]] = {}
        self.failed: dict[int, _RowError] = {}
        self._known: dict[object, int | _RowError] = {}

    def add(self, position: int, sample: Mapping[str, Any], process: Callable[[Any], _Image]) -> None:
        """Take in the images of the row at `position`; a damaged image fails every row that shows it."""
        keys = sample.get("image_keys") or [id(image) for image in sample["images"]]
        shown = []
        for key, image in zip(keys, sample["images"], strict=True):
            if key not in self._known:
                self._known[key] = self._take_in(image, process)
            found = self._known[key]
            if isinstance(found, _RowError):
                self.failed[position] = found
                return
            shown.append(found)
        self.slots[position] = tuple(shown)

    def _take_in(self, image: Any, process: Callable[[Any], _Image]) -> int | _RowError:
        try:
            self.processed.append(process(image))
        except _RowError as error:
            return error
        return len(self.processed) - 1


def _image_settings(processor: Any) -> dict[str, Any]:
    """The keyword arguments that this processor gives its image processor."""
    merged = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs, return_tensors="pt")
    return merged["images_kwargs"]


def _is_tensor(value: Any) -> bool:
    """Whether a processor output is numeric data with an axis of images or tiles in front."""
    return isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > 0


def _concatenate(parts: list[torch.Tensor]) -> torch.Tensor:
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


def _describe(error: Exception) -> str:
    """One line of an exception, for a report."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
