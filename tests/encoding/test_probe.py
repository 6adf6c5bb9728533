"""What goes into a model is what its own processor gives, for every family that can be built; others are refused."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from raycurate.encoding.inputs import ModelInputs, types_name
from raycurate.encoding.prepare import Preparer
from raycurate.encoding.probe import _own, _rows, check_processor
from raycurate.encoding.token_batches import TokenPreparer
from raycurate.encoding.tokens import TokenRow, image_token_ids, labels_of
from raycurate.errors import UserError
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.models.adapter import wrap_vlm
from raycurate.training.collate import Collator
from raycurate.training.data import TrainingRow
from tests.encoding.families import make_processor, network_class

RIGHT = (
    *("aria", "aya_vision", "cohere_compass", "cosmos3_edge", "deepseek_ocr2", "deepseek_vl", "deepseek_vl_hybrid"),
    *("dots3_note", "exaone4_5", "gemma3", "gemma3n", "gemma4", "glm46v", "glm4v", "glm5_next", "granite4_vision"),
    *("granite_docling", "hyperclovax_vision_v2", "idefics3", "internvl", "lfm3_vl", "lighton_ocr", "llava"),
    *("llava_next", "llava_next_video", "llava_onevision", "ovis2", "paddleocr_vl", "qwen2_5_vl", "qwen2_vl"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen4_exp", "video_llama_3", "video_llava", "vipllava"),
)
REFUSED = {
    "idefics2": "does not say which tokens stand for an image",
    "janus": "does not say which tokens stand for an image",
    "chameleon": "'input_ids' has the shape",
    "ernie4_5_vl_moe": "'moe_mm_token_type_ids' is not prepared",
    "paligemma": "'input_ids' has the shape",
    "got_ocr2": "its own call fails",
}
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


@pytest.mark.parametrize("family", REFUSED)
def test_a_processor_that_gives_something_else_is_refused_by_name(family):
    with pytest.raises(UserError, match=REFUSED[family]) as refused:
        check_processor(make_processor(family), family)
    assert family in str(refused.value) or type(make_processor(family)).__name__ in str(refused.value)


SETTINGS: dict[str, dict[str, Any]] = {
    "gemma3": {"image_seq_length": 16},
    "llava_onevision": {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _network(family: str, processor: Any) -> Any:
    """A small model with random weights of a family that was once given other inputs."""
    text = {**TEXT, "vocab_size": len(processor.tokenizer), "num_key_value_heads": 2, "pad_token_id": 0}
    image_id = int(processor.tokenizer.image_token_id)
    if family == "gemma3":
        side = processor.image_processor.size["height"]
        vision = {**VISION, "image_size": side, "patch_size": side // 16}
        config = hf.Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=processor.image_seq_length,
            image_token_id=image_id,
            image_token_index=image_id,
        )
    else:
        vision = {**VISION, "image_size": 384, "patch_size": 96}
        config = hf.LlavaOnevisionConfig(
            text_config={**text, "model_type": "qwen2"},
            vision_config={**vision, "model_type": "siglip_vision_model"},
            image_token_id=image_id,
            image_token_index=image_id,
        )
    torch.manual_seed(0)
    network = hf.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.15)
    return network


@pytest.mark.parametrize("family", ["gemma3", "llava_onevision"])
def test_a_model_gives_the_same_on_both(family):
    """Logits of a training's batch and of a stage's inputs against those of the processor's own call."""
    processor = make_processor(family, **SETTINGS[family])
    network = _network(family, processor)
    vlm = wrap_vlm(network, processor, name=family)
    preparer = Preparer(processor, max_length=1 << 16, token_budget=1 << 20)
    tokens = TokenPreparer(processor, max_length=1 << 16, token_budget=1 << 20, max_rows=8)
    for what, row in ROWS.items():
        own = _own(processor, preparer, row)
        if "mm_token_type_ids" in own:
            own[types_name(network)] = own.pop("mm_token_type_ids")
        sample = {**row, "image_keys": [f"{what} {i}" for i in range(len(row["images"]))]}
        batch = _training_batch(processor, tokens, sample, types_name(network))
        (prepared,) = preparer.prepare([row]).batches
        trained = {name: batch[name] for name in own if name in batch}
        with torch.no_grad():
            wanted = network(**own).logits
            length = batch["input_ids"].shape[1]
            assert torch.allclose(network(**ModelInputs(vlm)(prepared)).logits, wanted, atol=1e-4)
            assert torch.allclose(network(**trained).logits, wanted[:, :length], atol=1e-4)


def test_a_row_of_several_images_is_read_as_its_processor_reads_it():
    """LLaVA-OneVision tiles an image that is alone; one picture in both kinds of row is processed for each."""
    processor = make_processor("llava_onevision", **SETTINGS["llava_onevision"])
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
