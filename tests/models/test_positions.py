"""A row longer than the model has positions is refused wherever it is read, whatever the longest length is set to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raycurate.config import ExtractConfig
from raycurate.encoding.prepare import Preparer
from raycurate.encoding.token_batches import AnswerPreparer
from raycurate.encoding.tokens import TokenReject
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.models.positions import longest_row, positions_of
from raycurate.stages.tokenize import _tokenizer
from raycurate.stages.workers.preparers import preparer_of

POSITIONS = 2048
"""Of the embedded model."""


@pytest.mark.parametrize(
    ("settings", "positions"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2}}, 8192),
        ({"max_position_embeddings": 4096, "rope_parameters": {"full": {"factor": 8.0}, "sliding": {}}}, 32768),
        ({"max_position_embeddings": 4096, "rope_parameters": {"factor": 0.5}}, 4096),
        ({"max_position_embeddings": -1}, None),
        ({}, None),
    ],
)
def test_positions_are_those_of_the_configuration_stretched(settings, positions):
    assert positions_of(SimpleNamespace(**settings)) == positions


def test_the_lower_of_both_bounds_counts():
    assert [longest_row("tiny", length) for length in (100, POSITIONS, 4096)] == [100, POSITIONS, POSITIONS]


def _sample(words: int) -> dict:
    messages = [{"role": "user", "text": "say it"}, {"role": "assistant", "text": "sea " * words}]
    return {"key": f"{words}", "messages": messages, "images": [], "image_keys": [], "task": "t"}


@pytest.mark.parametrize("kind", [Preparer, AnswerPreparer, QuestionPreparer])
def test_no_stage_reads_a_row_beyond_the_positions(kind):
    """Of extract, score and evaluate: rejected with its reason, and a short one beside it is not."""
    preparer = preparer_of(kind, "tiny", ExtractConfig(max_length=8192, batch_rows=8), "float32")
    read = {Preparer: "prepare", AnswerPreparer: "prepare_answers", QuestionPreparer: "prepare_questions"}[kind]
    found = getattr(preparer, read)([_sample(3000), _sample(20)])
    rejects = found.failures if kind is Preparer else found[1]
    assert [(reject.reason, f"the limit is {POSITIONS}" in reject.detail) for reject in rejects] == [("overlong", True)]


def test_no_training_reads_one():
    (reject, row) = _tokenizer("tiny", False, 8192, "cut").tokenize([_sample(3000), _sample(20)])
    assert isinstance(reject, TokenReject)
    assert (reject.reason, f"the limit is {POSITIONS}" in reject.detail) == ("overlong", True)
    assert len(row.ids_T) < POSITIONS
