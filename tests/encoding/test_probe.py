"""What goes into a model is what its own processor gives, for every family that can be built; others are refused."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from raycurate.encoding.inputs import types_name
from raycurate.encoding.prepare import Preparer
from raycurate.encoding.probe import _own, _rows, check_processor
from raycurate.encoding.token_batches import TokenPreparer
from raycurate.encoding.tokens import TokenRow, image_token_ids, labels_of
from raycurate.errors import UserError
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.training.collate import Collator
from raycurate.training.data import TrainingRow
from tests.family_processors import make_processor, network_class
from tests.family_table import read_families

RIGHT = (*read_families(), "gemma3n")
READ_BY_NO_FORWARD = {"num_patches"}
"""Facts of images that the processors keep for their own use."""
ROWS = _rows()


class _NoBlank:
    has_images = False
    num_rows = 0

    def __getitem__(self, index: int) -> TrainingRow:
        raise AssertionError("no batch here needs it")


@pytest.mark.parametrize("family", RIGHT)
def test_what_every_stage_gives_a_model_is_what_its_processor_gives(family):
    """Features, scores and trainings, questions: the tensors of the processor's own call, under names of the model."""
    processor = make_processor(family)
    check_processor(processor, family)
    accepted = set(inspect.signature(network_class(family).forward).parameters)
    tokens = TokenPreparer(processor, max_length=1 << 16, token_budget=1 << 20, max_rows=8)
    questions = QuestionPreparer(
        processor, max_length=1 << 16, token_budget=1 << 20, max_rows=8, pixel_dtype=torch.float32
    )
    for what, row in ROWS.items():
        own = _own(processor, Preparer(processor, max_length=1 << 16), row)
        sample = {**row, "image_keys": [f"{what} {i}" for i in range(len(row["images"]))], "task": "a"}
        batch = _training_batch(processor, tokens, sample, types_name(_Forward(network_class(family))))
        length = batch["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"], own["input_ids"][:, :length])
        assert length > own["input_ids"].shape[1] - 8  # what comes after the last answer is not trained on
        for name, tensor in own.items():
            if name in ("input_ids", "attention_mask"):
                continue
            given = (
                batch["mm_token_type_ids" if "mm_token_type_ids" in batch else "token_type_ids"]
                if (name == "mm_token_type_ids")
                else batch[name]
            )
            wanted = tensor[:, :length] if name == "mm_token_type_ids" else tensor
            assert given.shape == wanted.shape, (what, name)
            assert torch.allclose(given.double(), wanted.double(), atol=1e-3), (what, name)
        named = batch.keys() - {"labels", "task_ids", "kept_positions", "attention_mask"}
        assert named <= accepted | READ_BY_NO_FORWARD, named - accepted
        for asked in questions.prepare_questions([sample])[0]:
            for ids_T, mask_T in zip(asked.batch.input_ids_BT, asked.batch.attention_mask_BT, strict=True):
                prompt_T = ids_T[mask_T].long()
                assert torch.equal(prompt_T, own["input_ids"][0, : len(prompt_T)])


class _Forward:
    """As much of a model as its names."""

    def __init__(self, kind: Any) -> None:
        self.forward = kind.forward


def _training_batch(processor: Any, tokens: TokenPreparer, sample: dict[str, Any], name: str) -> dict[str, Any]:
    window = tokens.tokenize([sample])
    (row,) = window.results
    assert isinstance(row, TokenRow), row
    images = tuple(window.processed[u] for u in window.images[0])
    labels_T = labels_of(row.ids_T, row.spans_A2, image_token_ids(processor))
    return Collator(processor, _NoBlank(), name)([TrainingRow(row.ids_T, labels_T, 0, images)])


def test_a_row_of_several_images_is_read_as_its_processor_reads_it():
    """LLaVA-OneVision tiles an image that is alone; one picture in both kinds of row is processed for each."""
    processor = make_processor(
        "llava_onevision", small=False, num_image_tokens=16, vision_feature_select_strategy="full"
    )
    preparer = Preparer(processor, max_length=1 << 16, token_budget=1 << 20)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 700, 3), dtype=np.uint8))

    def row(key: str, count: int) -> dict[str, Any]:
        turns = [{"role": "user", "text": "<image>" * count + "Q"}, {"role": "assistant", "text": "A"}]
        return {"key": key, "messages": turns, "images": [picture] * count, "image_keys": ["same"] * count}

    window = preparer.prepare([row("one", 1), row("two", 2)])
    assert not window.failures
    counts = {
        key: int((batch.input_ids_BT[b] == processor.image_token_id).sum())
        for batch in window.batches
        for b, key in enumerate(batch.keys)
    }
    assert counts["two"] == 2 * (processor.num_image_tokens + 1)
    assert counts["one"] > counts["two"] // 2


def test_a_configuration_that_names_another_image_token_is_refused():
    """Its visual tokens would not be found among those that the processor writes."""
    with pytest.raises(UserError, match="image_token_id 5000 is not in it"):
        check_processor(make_processor("llava"), "m", hf.LlavaConfig(image_token_index=5000))
    text_token = make_processor("llava").tokenizer.convert_tokens_to_ids("a")
    with pytest.raises(UserError, match=f"row with no image .* image_token_id {text_token} is in it"):
        check_processor(make_processor("llava"), "m", hf.LlavaConfig(image_token_index=text_token))


def test_a_model_that_needs_types_of_tokens_is_refused_without_them():
    """Its processor's call does not give them, and its positions are made from them."""
    processor = make_processor("cosmos3_edge")
    config = hf.Cosmos3EdgeConfig(image_token_id=processor.image_token_id)
    with pytest.raises(UserError, match="cosmos3_edge .*takes 'mm_token_type_ids'"):
        check_processor(processor, "cosmos3_edge", config)
