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

Cost: image decoding and resizing dominate; memory per window is its distinct images in `pixel_dtype` plus its tokens.
Limits: processors that do not describe their image expansion (`replace_image_token`) are refused; no videos.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.conversation import ConversationRenderer, count_marks
from raycurate.encoding.images import (
    ImageReader,
    ImageRun,
    ProcessedImage,
    RowError,
    WindowImages,
    check_describes_images,
    concatenate,
    describe,
    placeholder_id,
)
from raycurate.errors import UserError

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
        check_describes_images(processor)
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._max_length = max_length
        self._token_budget = token_budget
        self._max_rows = max_rows
        self._left = padding_side == "left"
        self._reader = ImageReader(processor, pixel_dtype)
        self._renderer = ConversationRenderer(processor)
        self._image_id = int(processor.image_token_id)
        self._mark_id = placeholder_id(processor)
        self._pad_id = next(
            (i for i in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id) if i is not None), 0
        )
        self._type_ids = [i for i in getattr(processor, "image_token_ids", []) if i is not None]
        self._wrappers = self._wrapper_ids()
        self._foreign = [t for t in (getattr(processor, n, None) for n in ("video_token", "audio_token")) if t]
        self.adds_special_tokens = self._renderer.adds_special_tokens()

    @functools.cached_property
    def image_bytes(self) -> int:
        """Bytes of a processed image, at most for usual photographs."""
        return self._reader.largest_bytes()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of one conversation, one image token where each image stands. Raises what its template raises."""
        (text,) = self._renderer.render_all([messages])
        if isinstance(text, Exception):
            raise text
        return text

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
        images = WindowImages(self._reader.read, by_number=self._reader.looks_at_number)
        for i in sorted(texts):
            images.add(i, samples[i])
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
            except RowError as error:
                failures.append(RowFailure(i, sample["key"], error.reason, error.detail))
        texts = {}
        rendered = self._renderer.render_all([samples[i]["messages"] for i in positions])
        for i, text in zip(positions, rendered, strict=True):
            if isinstance(text, Exception):
                failures.append(RowFailure(i, samples[i]["key"], "template_error", describe(text)))
                continue
            num_images, num_tokens = len(samples[i]["images"]), text.count(self._processor.image_token)
            if num_tokens != num_images:
                detail = f"the rendered text has {num_tokens} image tokens for {num_images} images"
                failures.append(RowFailure(i, samples[i]["key"], "special_token_in_text", detail))
            else:
                texts[i] = text
        return texts

    def _check(self, sample: Mapping[str, Any]) -> None:
        """Raise `RowError` for a sample that is wrong before any model code sees it."""
        messages, num_images = sample["messages"], len(sample["images"])
        if not messages:
            raise RowError("template_error", "the conversation is empty")
        marks = count_marks(messages)
        if marks != num_images:
            raise RowError("image_count_mismatch", f"{marks} <image> marks for {num_images} images")
        if sum(len(m["text"]) for m in messages) > self._max_length * _MAX_CHARACTERS_PER_TOKEN:
            raise RowError("overlong", f"over {self._max_length * _MAX_CHARACTERS_PER_TOKEN} characters")
        for token in self._foreign:
            if any(token in m["text"] for m in messages):
                raise RowError("special_token_in_text", f"the text holds the special token {token}")

    def _rows(
        self,
        samples: Sequence[Mapping[str, Any]],
        texts: Mapping[int, str],
        images: WindowImages,
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
        to_encode = [self._with_open_runs(texts[i], images.runs(i)) for i in positions]
        encoded = self._tokenizer(
            to_encode, add_special_tokens=self.adds_special_tokens, return_special_tokens_mask=True
        )
        for n, i in enumerate(positions):
            prefix = self._renderer.prefix_length(samples[i]["messages"], texts[i])
            ids_T = np.asarray(encoded["input_ids"][n], dtype=np.int32)
            text_T = np.asarray(encoded["special_tokens_mask"][n]) == 0
            text_T[: self._first_content_token(encoded, n, prefix, to_encode[n])] = False
            try:
                ids_T, text_T = self._expand(ids_T, text_T, images.runs(i))
                rows.append(_Row(i, samples[i]["key"], ids_T, text_T, images.shown(i)))
            except RowError as error:
                failures.append(RowFailure(i, samples[i]["key"], error.reason, error.detail))
        return rows

    def _with_open_runs(self, text: str, runs: Sequence[ImageRun]) -> str:
        """Write out the runs of a row in its text if any of them would be tokenised together with its neighbours."""
        if self._are_atomic(runs):
            return text
        pieces = text.split(self._processor.image_token)
        return pieces[0] + "".join(run.text + piece for run, piece in zip(runs, pieces[1:], strict=True))

    def _are_atomic(self, runs: Sequence[ImageRun]) -> bool:
        return self._mark_id is not None and all(run.atomic for run in runs)

    def _first_content_token(self, encoded: Any, n: int, prefix: int, text: str) -> int:
        """Index of the first token that holds a character from `prefix` on."""
        if not self._tokenizer.is_fast:
            ids = self._tokenizer(text[:prefix], add_special_tokens=self.adds_special_tokens)["input_ids"]
            return len(ids)
        for character in range(prefix, len(text)):
            token = encoded.char_to_token(n, character)
            if token is not None:
                return token
        return len(encoded["input_ids"][n])

    def _expand(self, ids_T: np.ndarray, text_T: np.ndarray, runs: Sequence[ImageRun]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and text mask of a row with its placeholders replaced by their runs; raises `RowError`."""
        wrappers = set(self._wrappers).union(*(run.wrapper_ids for run in runs))
        atomic = self._are_atomic(runs)
        mark = self._image_id if self._mark_id is None or not (atomic and runs) else self._mark_id
        text_T &= ~np.isin(ids_T, [self._image_id, mark, *wrappers])
        at = np.flatnonzero(ids_T == mark)
        expected = len(runs) if atomic else sum(run.num_visual for run in runs)
        if len(at) != expected:
            raise RowError("special_token_in_text", f"{len(at)} image tokens where there should be {expected}")
        length = len(ids_T) + (sum(len(run.ids) - 1 for run in runs) if atomic else 0)
        if length > self._max_length:
            raise RowError("overlong", f"{length} tokens, the limit is {self._max_length}")
        if not text_T.any():
            raise RowError("no_text_tokens", "no token of the conversation is text")
        if not runs or not atomic:
            return ids_T, text_T
        id_parts, text_parts, start = [], [], 0
        for stop, run in zip(at.tolist(), runs, strict=True):
            id_parts += [ids_T[start:stop], run.ids]
            text_parts += [text_T[start:stop], np.zeros(len(run.ids), dtype=bool)]
            start = stop + 1
        return np.concatenate([*id_parts, ids_T[start:]]), np.concatenate([*text_parts, text_T[start:]])

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

    def _collate(self, rows: list[_Row], processed: Sequence[ProcessedImage]) -> PreparedBatch:
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
            image_tokens_U=torch.tensor([image.run.num_visual for image in shown], dtype=torch.int32),
            image_inputs={name: concatenate([image.tensors[name] for image in shown]) for name in names},
            image_splits={name: tuple(image.tensors[name].shape[0] for image in shown) for name in names},
            mm_token_type_ids_BT=torch.from_numpy(types_BT.astype(np.int32)) if wants_types else None,
            nested_images=bool(shown) and shown[0].nested,
        )
