"""Rows to token ids with the spans of their answers: what the `tokens` noun holds and a training step reads.

Per window of rows: conversations are rendered to segments (`answers.py`), tokenised whole in one call, and every token
is placed by its character offsets, so ids are what the model's tokenizer gives for the text and not for pieces of it.
A row in which a token holds characters of a prompt and of an answer is tokenised piece by piece instead. Then each
image placeholder is expanded to the run of tokens that the processor writes for that image (`encoding/images.py`).

An answer whose message says `train: False` is context: its tokens are no labels. Turns after the last answer that is
trained on are left out.

A row over `max_length` is cut at the end of its last answer that fits, its later turns and their images left out, or,
where not even the first fits or `overlong` is "quarantine", rejected. Every other row that cannot be used is rejected
with its reason: `template_error`, `no_answer`, `no_trained_answer`, `unmaskable`, `image_count_mismatch`,
`special_token_in_text`, `undecodable_image`, `image_processor_error`, `overlong`.

Cost per row: two template renderings, one tokenisation, one image decode and resize (which finds broken images before
the training does). Memory: the images of a window. Limits: fast tokenizers only, as character offsets are needed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from raycurate.encoding.answers import AnswerRenderer, Segment
from raycurate.encoding.conversation import count_marks
from raycurate.encoding.images import (
    ImageReader,
    ImageRun,
    RowError,
    WindowImages,
    check_describes_images,
    placeholder_id,
)
from raycurate.errors import UserError


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row ready to train on: ids int32 [T], [start, stop) spans of its trained answers int32 [A, 2], images shown."""

    position: int
    ids_T: np.ndarray
    spans_A2: np.ndarray
    num_images: int
    turns_cut: int


@dataclass(frozen=True, slots=True)
class TokenReject:
    """A row that is not trained on, and why."""

    position: int
    reason: str
    detail: str


class RowTokenizer:
    """Tokenises rows for one processor."""

    def __init__(
        self, processor: Any, *, max_length: int, overlong: str = "cut", reader: ImageReader | None = None
    ) -> None:
        """Set up; `reader` is one to share.

        Raises:
            UserError: a processor that does not describe its images or has a slow tokenizer.
        """
        check_describes_images(processor)
        if not processor.tokenizer.is_fast:
            raise UserError(f"{type(processor.tokenizer).__name__} has no fast version, which masks are made with.")
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._max_length, self._cuts = max_length, overlong == "cut"
        self._renderer = AnswerRenderer(processor)
        self._reader = reader or ImageReader(processor, torch.float32)
        self._mark_id = placeholder_id(processor)
        self._foreign = [t for t in (getattr(processor, n, None) for n in ("video_token", "audio_token")) if t]
        self._special = self._adds_special()

    def _adds_special(self) -> bool:
        """Whether the tokenizer must add BOS itself because the template does not write it."""
        bos = self._tokenizer.bos_token
        messages = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "a"}]
        return bos is None or not self._renderer.segments(messages)[0].text.startswith(bos)

    @functools.cached_property
    def image_bytes(self) -> int:
        """Bytes of a processed image, at most for usual photographs."""
        return self._reader.largest_bytes()

    def tokenize(self, samples: Sequence[Mapping[str, Any]]) -> list[TokenRow | TokenReject]:
        """One result per sample, in order. Samples are as in `encoding.prepare.Preparer.prepare`."""
        results: dict[int, TokenRow | TokenReject] = {}
        images = WindowImages(self._reader.read, by_number=self._reader.looks_at_number)
        rendered: dict[int, list[Segment]] = {}
        for i, sample in enumerate(samples):
            try:
                rendered[i] = self._render(sample)
                images.add(i, sample)
                if i in images.failed:
                    raise images.failed[i]
                if not self._are_atomic(images.runs(i)):
                    rendered[i] = _with_open_runs(rendered[i], images.runs(i), self._processor.image_token)
            except RowError as error:
                rendered.pop(i, None)
                results[i] = TokenReject(i, error.reason, error.detail)
        encoded = self._encode([_text(segments) for segments in rendered.values()])
        for (i, segments), (ids, offsets) in zip(rendered.items(), encoded, strict=True):
            try:
                results[i] = self._row(i, segments, ids, offsets, images.runs(i), samples[i]["messages"])
            except RowError as error:
                results[i] = TokenReject(i, error.reason, error.detail)
        return [results[i] for i in range(len(samples))]

    def _render(self, sample: Mapping[str, Any]) -> list[Segment]:
        messages, num_images = sample["messages"], len(sample["images"])
        marks = count_marks(messages)
        if marks != num_images:
            raise RowError("image_count_mismatch", f"{marks} <image> marks for {num_images} images")
        for token in self._foreign:
            if any(token in m["text"] for m in messages):
                raise RowError("special_token_in_text", f"the text holds the special token {token}")
        segments = self._renderer.segments(messages)
        shown = sum(segment.text.count(self._processor.image_token) for segment in segments)
        last_answer = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        expected = count_marks(messages[: last_answer + 1])
        if shown != expected:
            raise RowError("special_token_in_text", f"the rendered text has {shown} image tokens for {expected} images")
        return segments

    def _encode(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        if not texts:
            return []
        encoded = self._tokenizer(texts, add_special_tokens=self._special, return_offsets_mapping=True)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def _row(
        self,
        position: int,
        segments: list[Segment],
        ids: list[int],
        offsets: list[tuple[int, int]],
        runs: Sequence[ImageRun],
        messages: Sequence[Mapping[str, Any]],
    ) -> TokenRow:
        ids_T, spans_A2 = self._place(segments, ids, offsets)
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        trained = [number for number, i in enumerate(answers) if messages[i].get("train") is not False]
        if not trained:
            raise RowError("no_trained_answer", "the row says of every answer that it is not trained on")
        spans_A2, answers = spans_A2[trained], [answers[number] for number in trained]
        stop = int(spans_A2[-1, 1])  # a special token that the tokenizer adds at the end is not the template's
        ids_T, spans_A2 = self._expand(ids_T[:stop], spans_A2, runs)
        fitting = spans_A2[:, 1] <= self._max_length
        if not fitting.all() and (not self._cuts or not fitting[0]):
            raise RowError("overlong", f"{len(ids_T)} tokens, the limit is {self._max_length}")
        kept = int(fitting.sum())
        return TokenRow(
            position=position,
            ids_T=ids_T[: int(spans_A2[kept - 1, 1])],
            spans_A2=spans_A2[:kept],
            num_images=count_marks(messages[: answers[kept - 1] + 1]),
            turns_cut=0 if kept == len(spans_A2) else len(messages) - 1 - answers[kept - 1],
        )

    def _are_atomic(self, runs: Sequence[ImageRun]) -> bool:
        return self._mark_id is not None and all(run.atomic for run in runs)

    def _place(
        self, segments: list[Segment], ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and the token spans of the answers."""
        ends = np.array(list(accumulate(len(segment.text) for segment in segments)))
        starts_T, stops_T = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
        empty_T = starts_T == stops_T  # added by the tokenizer, such as BOS: no text of the row
        owner_T = np.searchsorted(ends, starts_T, side="right").clip(max=len(segments) - 1)
        straddles_T = ~empty_T & (stops_T > ends[owner_T])
        if straddles_T.any():
            return self._place_apart(segments, ids, offsets)
        spans = []
        for number, segment in enumerate(segments):
            if segment.answer:
                at = np.flatnonzero((owner_T == number) & ~empty_T)
                if not len(at):
                    raise RowError("unmaskable", "an answer has no tokens of its own")
                spans.append((at[0], at[-1] + 1))
        return np.array(ids, dtype=np.int32), np.array(spans, dtype=np.int32)

    def _place_apart(
        self, segments: list[Segment], ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same with every segment tokenised by itself, for tokens that would span a prompt and an answer."""
        first = next((i for i, (start, stop) in enumerate(offsets) if stop > start), 0)
        together, spans = list(ids[:first]), []
        for segment in segments:
            start = len(together)
            together += self._tokenizer(segment.text, add_special_tokens=False)["input_ids"]
            if segment.answer:
                spans.append((start, len(together)))
        if self._tokenizer.decode(together) != self._tokenizer.decode(ids):
            raise RowError("unmaskable", "a token holds text of a prompt and of an answer")
        return np.array(together, dtype=np.int32), np.array(spans, dtype=np.int32)

    def _expand(
        self, ids_T: np.ndarray, spans_A2: np.ndarray, runs: Sequence[ImageRun]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and spans with the placeholders replaced by the images' runs."""
        at = np.flatnonzero(ids_T == self._mark_id)
        if self._are_atomic(runs):
            runs = runs[: len(at)]  # images of turns after the last answer are not in the text
            if not len(at):
                return ids_T, spans_A2
            counts_T = np.ones(len(ids_T), dtype=np.int64)
            counts_T[at] = [len(run.ids) for run in runs]
            first_T = np.concatenate([[0], np.cumsum(counts_T)])
            expanded = np.repeat(ids_T, counts_T)
            for place, run in zip(at, runs, strict=True):
                expanded[first_T[place] : first_T[place] + len(run.ids)] = run.ids
            return expanded.astype(np.int32), first_T[spans_A2].astype(np.int32)
        return ids_T, spans_A2


def _text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def _with_open_runs(segments: list[Segment], runs: Sequence[ImageRun], image_token: str) -> list[Segment]:
    """Write the runs out in the text, as some of them would be tokenised together with their neighbours."""
    left = iter(runs)
    opened = []
    for segment in segments:
        head, *tail = segment.text.split(image_token)
        text = head + "".join(next(left).text + piece for piece in tail)
        opened.append(Segment(text, segment.answer))
    return opened


def labels_of(ids_T: np.ndarray, spans_A2: np.ndarray, silent: Sequence[int]) -> np.ndarray:
    """Labels int64 [T]: the ids inside the spans, -100 elsewhere and where an id is one of `silent` (image tokens)."""
    labels_T = np.full(len(ids_T), -100, dtype=np.int64)
    for start, stop in spans_A2:
        labels_T[start:stop] = ids_T[start:stop]
    labels_T[np.isin(ids_T, silent)] = -100
    return labels_T


def image_token_ids(processor: Any) -> list[int]:
    """Every token that stands for an image or a part of it: never a label."""
    return sorted({int(processor.image_token_id), *(int(i) for i in getattr(processor, "image_token_ids", []) if i)})
