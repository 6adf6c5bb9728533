"""Test rows to questions: every answer of a conversation is one question, with the true history before it.

A row is tokenised whole by the code that makes training rows (`encoding/tokens.py`), and a question's prompt is the ids
in front of its answer's span. So a model is asked with exactly the tokens it was trained to answer after, earlier
turns end with the token that ends a turn, and one tokenisation serves all turns of a row. Rows that cannot be used are
rejected with the tokenizer's reason, `overlong` ones included: nothing is cut.

Packing is `encoding/prepare.py`'s, by task and then by length and image, as answers of one task have like lengths and a
batch runs until its longest answer ends. Rows are padded on the left, so that all answers begin in one column.

Cost per row: two template renderings and one tokenisation; per distinct image of a window one decode and resize.
Limits: as of `encoding/tokens.py`: fast tokenizers, no videos. A template that writes a generation prompt of its own
(such as an empty thinking block) is not asked with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.conversation import count_marks
from raycurate.encoding.prepare import _Row
from raycurate.encoding.token_batches import TokenPreparer
from raycurate.encoding.tokens import TokenReject, TokenRow


@dataclass(frozen=True, slots=True)
class Question:
    """Where a question comes from: the row in the window, and which of its answers is asked for (0-based)."""

    position: int
    turn: int


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Questions that are answered together, in the order of the batch's rows."""

    batch: PreparedBatch
    questions: tuple[Question, ...]


class QuestionPreparer(TokenPreparer):
    """Turns windows of test rows into left-padded batches of prompts for one processor."""

    def __init__(
        self, processor: Any, *, max_length: int, token_budget: int, max_rows: int, pixel_dtype: torch.dtype
    ) -> None:
        """As `Preparer`; `max_length` is of the whole row, its answers included."""
        super().__init__(
            processor,
            max_length=max_length,
            token_budget=token_budget,
            max_rows=max_rows,
            padding_side="left",
            pixel_dtype=pixel_dtype,
        )

    def prepare_questions(self, samples: Sequence[Mapping[str, Any]]) -> tuple[list[QuestionBatch], list[TokenReject]]:
        """Batches of every question of the window, and the rows that have none.

        Args:
            samples: mappings as of `Preparer.prepare`, with `image_keys` and `task`.
        """
        window = self.tokenize(samples)
        questions: list[Question] = []
        rows_of_task: dict[str, list[_Row]] = {}
        for sample, result, images in zip(samples, window.results, window.images, strict=True):
            if isinstance(result, TokenRow):
                for question, row in _questions(sample, result, images, len(questions)):
                    questions.append(question)
                    rows_of_task.setdefault(sample["task"], []).append(row)
        batches = []
        for _, rows in sorted(rows_of_task.items()):
            for group in self._pack(rows):
                batch = self.collate(group, window.processed)
                batches.append(QuestionBatch(batch, tuple(questions[row.position] for row in group)))
        return batches, window.rejects


def _questions(
    sample: Mapping[str, Any], row: TokenRow, images: Sequence[int], first: int
) -> list[tuple[Question, _Row]]:
    """The questions of one row, numbered from `first`, as rows to pack."""
    messages = sample["messages"]
    found = []
    for turn, answer in enumerate(answer_turns(messages)):
        ids_T = row.ids_T[: row.spans_A2[turn, 0]]
        shown = tuple(images[: count_marks(messages[:answer])])
        nothing_T = np.zeros(len(ids_T), dtype=bool)
        found.append((Question(row.position, turn), _Row(first + turn, sample["key"], ids_T, nothing_T, shown)))
    return found


def answer_turns(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The positions of the answers that are asked for: not those that are context only."""
    asked = enumerate(messages)
    return [i for i, message in asked if message["role"] == "assistant" and message.get("train") is not False]
