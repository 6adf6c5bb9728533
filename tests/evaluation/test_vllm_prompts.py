"""Prompts for an engine that expands images itself."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from raycurate.encoding.images import ImageRun, placeholder_id
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.evaluation.vllm_prompts import PromptBatch, PromptPreparer, fold_images
from tests.evaluation.test_generate import SAMPLES
from tests.tiny_vlms import make_processor

USUAL = {"max_length": 500, "token_budget": 4000, "max_rows": 4}


def _run(*ids: int) -> ImageRun:
    return ImageRun("", np.array(ids, dtype=np.int32), len(ids), True, frozenset())


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "smolvlm", "internvl"])
def test_prompts_are_those_of_the_built_in_engine_with_one_mark_for_each_image(family):
    """Written out again, each is the same ids; questions, their order by row and their images are the same."""
    import torch

    processor = make_processor(family)
    samples = [{**each, "encoded": [functools.partial(key.encode) for key in each["image_keys"]]} for each in SAMPLES]
    own, _ = QuestionPreparer(processor, **USUAL, pixel_dtype=torch.float32).prepare_questions(samples)
    expected = {
        (question.position, question.turn): made.batch.input_ids_BT[b][made.batch.attention_mask_BT[b]].tolist()
        for made in own
        for b, question in enumerate(made.questions)
    }
    preparer = PromptPreparer(processor, **USUAL, pixel_dtype=torch.float32)
    runs = {
        key: processed.run.ids.tolist()
        for each in samples
        for key, processed in zip(each["image_keys"], preparer.tokenize([each]).processed, strict=True)
    }
    ((made,), rejects) = preparer.prepare_questions(samples)
    assert not rejects
    found = {}
    for question, ids, shown in zip(made.questions, made.batch.ids, made.batch.shown, strict=True):
        keys = [made.batch.images[place].decode() for place in shown]
        assert ids.count(placeholder_id(processor)) == len(keys)
        left = iter(keys)
        found[question.position, question.turn] = [
            token for each in ids for token in (runs[next(left)] if each == placeholder_id(processor) else [each])
        ]
    assert found == expected
    assert made.batch.images == (b"image 0", b"image 1")


def test_images_that_touch_are_folded_one_by_one():
    """Their runs are alike and have no end of their own; text between and behind them stays."""
    ids_T = np.array([1, 9, 9, 9, 9, 2, 9, 9, 3], dtype=np.int32)
    assert fold_images(ids_T, [_run(9, 9)] * 3, 5) == [1, 5, 5, 2, 5, 3]
    assert fold_images(ids_T, [], 5) == ids_T.tolist()
    assert fold_images(ids_T, [_run(9, 9, 8)], 5) is None


def test_a_batch_travels_as_bytes():
    """Empty prompts, prompts without images and images without a byte in common come back as they were."""
    batch = PromptBatch(((1, 2), (), (3,)), ((0, 1), (), (1,)), (b"a\x00b", b""))
    assert PromptBatch.from_bytes(batch.to_bytes()) == batch
