"""Windows of samples to batches of token rows with masks: tokenised as a finetune would, each image decoded once.

Rows come from `encoding/tokens.py`, so ids, spans of answers and reasons for rejects are those of a training on the
same rows; packing and collation are `prepare.py`'s. `AnswerPreparer` makes the batches that losses are taken on: the
text mask of its batches marks the tokens that a training would train on, and nothing else. Rows are not cut: one over
`max_length` is rejected as `overlong`.

`blind` batches are the same conversations without their images: marks and line breaks that touch them are left out,
and the answers are the same. Rows without an image have no blind form.

Cost per row: two template renderings and one tokenisation; per distinct image of a window one decode and resize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.conversation import IMAGE_MARK, content_blocks
from raycurate.encoding.images import ImageReader, ProcessedImage
from raycurate.encoding.prepare import Preparer, _Row
from raycurate.encoding.tokens import RowTokenizer, TokenReject, TokenRow, image_token_ids, labels_of


class _RememberingReader(ImageReader):
    """An `ImageReader` that keeps what it made, by the identity of what it was asked to read."""

    def __init__(self, processor: Any, pixel_dtype: torch.dtype) -> None:
        super().__init__(processor, pixel_dtype)
        self.processed: dict[int, ProcessedImage] = {}

    def read(self, image: Any, several: bool = False) -> ProcessedImage:
        result = self.processed[id(image)] = super().read(image, several)
        return result


class _Loader:
    """An image, or what loads one, as an object of its own."""

    def __init__(self, image: Any) -> None:
        self._image = image

    def __call__(self) -> Any:
        return self._image() if callable(self._image) else self._image


@dataclass(frozen=True, eq=False)
class TokenWindow:
    """A window of samples, tokenised.

    `results` has one entry per sample; `processed` the distinct images of the window (None for one that could not be
    read), `images` the numbers of the images of each sample among them.
    """

    results: list[TokenRow | TokenReject]
    processed: list[ProcessedImage | None]
    images: list[tuple[int, ...]]

    @property
    def rejects(self) -> list[TokenReject]:
        """The rows that cannot be used."""
        return [result for result in self.results if isinstance(result, TokenReject)]


class TokenPreparer(Preparer):
    """Tokenises windows for one processor; what the batches of a subclass are made from."""

    def __init__(
        self,
        processor: Any,
        *,
        max_length: int,
        token_budget: int,
        max_rows: int,
        pixel_dtype: torch.dtype = torch.float32,
        padding_side: str = "right",
    ) -> None:
        """As `Preparer`; `max_length` is of the whole row, its answers included."""
        super().__init__(
            processor,
            max_length=max_length,
            token_budget=token_budget,
            max_rows=max_rows,
            padding_side=padding_side,
            pixel_dtype=pixel_dtype,
        )
        self._memory = _RememberingReader(processor, pixel_dtype)  # one decode serves tokens and pixels
        self._rows_of = RowTokenizer(processor, max_length=max_length, overlong="quarantine", reader=self._memory)

    def tokenize(self, samples: Sequence[Mapping[str, Any]]) -> TokenWindow:
        """Tokenise samples as of `Preparer.prepare`, which must have `image_keys`."""
        loaders: dict[tuple[str, bool], Any] = {}
        names: list[list[tuple[str, bool]]] = []
        shared = []
        for sample in samples:
            several = self._memory.looks_at_number and len(sample["image_keys"]) > 1
            names.append([(key, several) for key in sample["image_keys"]])
            pairs = zip(names[-1], sample["images"], strict=True)
            shared.append({**sample, "images": [loaders.setdefault(name, _Loader(image)) for name, image in pairs]})
        self._memory.processed.clear()
        results = self._rows_of.tokenize(shared)
        numbers = {name: number for number, name in enumerate(loaders)}
        processed = [self._memory.processed.get(id(loader)) for loader in loaders.values()]
        self._memory.processed.clear()
        images = [tuple(numbers[name] for name in row) for row in names]
        return TokenWindow(results, processed, images)

    def collate(self, rows: list[_Row], processed: Sequence[ProcessedImage | None]) -> PreparedBatch:
        """Pad rows that were packed together."""
        return self._collate(rows, processed)  # type: ignore[arg-type]  # images of usable rows were processed


class AnswerPreparer(TokenPreparer):
    """Batches whose text mask marks the answers' tokens."""

    def prepare_answers(
        self, samples: Sequence[Mapping[str, Any]], *, blind: bool = False
    ) -> tuple[list[PreparedBatch], list[TokenReject]]:
        """Batches of the window, and the rows that are in none; `blind` ones of its rows with an image only."""
        positions = [i for i, sample in enumerate(samples) if sample["images"] or not blind]
        chosen = [without_images(samples[i]) if blind else samples[i] for i in positions]
        window = self.tokenize(chosen)
        silent = image_token_ids(self._processor)
        rows: list[_Row] = []
        rejects = [TokenReject(positions[r.position], r.reason, r.detail) for r in window.rejects]
        for position, sample, result, images in zip(positions, chosen, window.results, window.images, strict=True):
            if isinstance(result, TokenReject):
                continue
            answer_T = labels_of(result.ids_T, result.spans_A2, silent) >= 0
            answer_T[0] = False  # nothing comes before it that could predict it
            if not answer_T.any():
                rejects.append(TokenReject(position, "no_answer", "no token of an answer is text"))
                continue
            rows.append(_Row(position, sample["key"], result.ids_T, np.asarray(answer_T), images[: result.num_images]))
        batches = [self.collate(group, window.processed) for group in self._pack(rows)]
        return batches, sorted(rejects, key=lambda reject: reject.position)


def without_questions(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample that shows its images and asks nothing: all answers that are trained on as one, joined by spaces."""
    answers = [m for m in sample["messages"] if m["role"] == "assistant" and m.get("train") is not False]
    text = " ".join("".join(b["text"] for b in content_blocks(m["text"]) if b["type"] == "text") for m in answers)
    system = [message for message in sample["messages"] if message["role"] == "system"]
    shown = {"role": "user", "text": IMAGE_MARK * len(sample["images"])}
    return {**sample, "messages": [*system, shown, {"role": "assistant", "text": text}]}


def without_images(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample with its images and their marks left out."""
    messages = []
    for message in sample["messages"]:
        blocks = content_blocks(message["text"])
        messages.append({**message, "text": "".join(b["text"] for b in blocks if b["type"] == "text")})
    return {**sample, "messages": messages, "images": [], "image_keys": []}
