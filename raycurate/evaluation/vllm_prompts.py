"""Test rows to prompts for an engine that expands images itself: token ids with one placeholder for each image.

Rows are tokenised as for the built-in engine (`prompts.py`), so which rows are asked, which are rejected and every
token of text are the same; then each image's run of tokens is folded back to the placeholder that it was made of, as
vLLM writes the runs that its own model takes. Images travel as the bytes that they have in the source. A window is one
batch: the engine forms its own from what is waiting.

Cost beside that of `prompts.py`: each image's bytes are read once more. Memory: a window's encoded images.
Limits: processors whose placeholder is one token and whose runs are tokenised apart from the text beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raycurate.encoding.conversation import count_marks
from raycurate.encoding.images import ImageRun, placeholder_id
from raycurate.encoding.token_batches import TokenPreparer
from raycurate.encoding.tokens import TokenReject, TokenRow
from raycurate.errors import UserError
from raycurate.evaluation.prompts import Question, answer_turns

_SCHEMA = pa.schema(
    [("ids", pa.list_(pa.int32())), ("shown", pa.list_(pa.int32())), ("image", pa.large_binary())],
)


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts that are handed over together.

    Attributes:
        ids: of each prompt, a placeholder for each image.
        shown: the images of each prompt, as places in `images`.
        images: the distinct images, encoded.
    """

    ids: tuple[tuple[int, ...], ...]
    shown: tuple[tuple[int, ...], ...]
    images: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """One Arrow stream: a row for each prompt, then one for each image."""
        prompts, images = len(self.ids), len(self.images)
        columns = ([*self.ids, *[None] * images], [*self.shown, *[None] * images], [*[None] * prompts, *self.images])
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _SCHEMA) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes()

    @staticmethod
    def from_bytes(data: bytes) -> PromptBatch:
        """What `to_bytes` wrote."""
        with pa.ipc.open_stream(data) as stream:
            table = stream.read_all()
        ids, shown, images = (table[name].drop_null().to_pylist() for name in _SCHEMA.names)
        return PromptBatch(tuple(map(tuple, ids)), tuple(map(tuple, shown)), tuple(images))


@dataclass(frozen=True, slots=True)
class PromptQuestions:
    """Prompts and where each comes from, in the same order."""

    batch: PromptBatch
    questions: tuple[Question, ...]


class PromptPreparer(TokenPreparer):
    """Turns windows of test rows into prompts for one processor; arguments as of `QuestionPreparer`."""

    def __init__(self, processor: Any, **packing: Any) -> None:
        """Set up.

        Raises:
            UserError: a processor whose placeholder is several tokens.
        """
        super().__init__(processor, padding_side="left", **packing)
        mark = placeholder_id(processor)
        if mark is None:
            raise UserError(
                f"{type(processor).__name__} writes an image's placeholder as several tokens, which the engine 'vllm' "
                "is not given; leave the setting engine out"
            )
        self._mark = mark

    def prepare_questions(
        self, samples: Sequence[Mapping[str, Any]]
    ) -> tuple[list[PromptQuestions], list[TokenReject]]:
        """Every question of the window as one batch, and the rows that have none.

        Args:
            samples: mappings as of `QuestionPreparer.prepare_questions`, with functions `encoded` that give the bytes
                of their images.
        """
        window = self.tokenize(samples)
        places: dict[str, int] = {}
        images: list[bytes] = []
        ids, shown, questions = [], [], []
        for sample, row, numbers in zip(samples, window.results, window.images, strict=True):
            if not isinstance(row, TokenRow):
                continue
            for key, read in zip(sample["image_keys"], sample["encoded"], strict=True):
                if key not in places:
                    places[key] = len(images)
                    images.append(read())
            runs = [processed.run for processed in (window.processed[number] for number in numbers) if processed]
            for turn, answer in enumerate(answer_turns(sample["messages"])):
                marks = count_marks(sample["messages"][:answer])
                ids.append(tuple(self._folded(row.ids_T[: row.spans_A2[turn, 0]], runs[:marks])))
                shown.append(tuple(places[key] for key in sample["image_keys"][:marks]))
                questions.append(Question(row.position, turn))
        if not questions:
            return [], window.rejects
        batch = PromptBatch(tuple(ids), tuple(shown), tuple(images))
        return [PromptQuestions(batch, tuple(questions))], window.rejects

    def _folded(self, ids_T: np.ndarray, runs: Sequence[ImageRun]) -> list[int]:
        folded = fold_images(ids_T, runs, self._mark)
        if folded is None:
            raise UserError(
                f"{type(self._processor).__name__} writes images in tokens that join the text beside them, which the "
                "engine 'vllm' is not given; leave the setting engine out"
            )
        return folded


def fold_images(ids_T: np.ndarray, runs: Sequence[ImageRun], mark: int) -> list[int] | None:
    """The ids with each run of an image, in order, as one `mark`; None where a run is not there as it is."""
    folded: list[int] = []
    start = 0
    for run in runs:
        begins = (np.flatnonzero(ids_T[start:] == run.ids[0]) + start).tolist()
        at = next((place for place in begins if _is_run(ids_T, place, run)), None)
        if at is None:
            return None
        folded += [*ids_T[start:at].tolist(), mark]
        start = at + len(run.ids)
    return folded + ids_T[start:].tolist()


def _is_run(ids_T: np.ndarray, at: int, run: ImageRun) -> bool:
    return bool(np.array_equal(ids_T[at : at + len(run.ids)], run.ids))
