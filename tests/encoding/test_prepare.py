"""Rows to batches: the same tokens and pixels as the model's own processor, failures counted, nothing cut."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.images import _further
from raycurate.encoding.prepare import Preparer
from raycurate.errors import UserError
from tests.features.conftest import PREFIXES, make_image, make_sample
from tests.tiny_vlms import FAMILIES, make_processor

PROCESSORS: dict[str, Any] = {}


def processor_of(family: str) -> Any:
    """The family's processor, built once."""
    if family not in PROCESSORS:
        PROCESSORS[family] = make_processor(family)
    return PROCESSORS[family]


def masked_text(batch: PreparedBatch, row: int, tokenizer: Any) -> str:
    """The text that the text mask of a row selects."""
    ids = batch.input_ids_BT[row][batch.text_mask_BT[row]]
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_pixels_are_the_processors_own(family, samples):
    """Expanding placeholders on ids and processing images once gives what the processor's own call gives."""
    processor = processor_of(family)
    for sample in samples:
        (batch,) = Preparer(processor).prepare([sample]).batches
        blocks = []
        for message in sample["messages"]:
            content: list[dict[str, str]] = []
            for i, piece in enumerate(message["text"].split("<image>")):
                content += [{"type": "image"}] if i else []
                content += [{"type": "text", "text": piece.strip("\n")}] if piece.strip("\n") else []
            blocks.append({"role": message["role"], "content": content})
        text = processor.apply_chat_template(blocks, tokenize=False)
        expected = processor(text=[text], images=[sample["images"]] if sample["images"] else None, return_tensors="pt")
        assert batch.input_ids_BT.tolist() == expected["input_ids"].tolist()
        if not sample["images"]:
            assert batch.image_inputs == {}
            continue
        found = batch.images_at(batch.image_index_S.tolist())
        pixels = expected["pixel_values"]
        assert torch.equal(found["pixel_values"], pixels[0] if batch.nested_images else pixels)
        for name in ("image_grid_thw", "mm_token_type_ids"):
            if name in expected:
                own = batch.mm_token_type_ids_BT if name.startswith("mm") else found[name]
                assert own.tolist() == expected[name].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_text_mask_is_everything_after_the_prefix_but_images(family):
    """The text mask starts at the first user content and holds every later turn, without image tokens."""
    processor = processor_of(family)
    sample = make_sample("k", [make_image(0, 60, 28)], "<image>\nWhat?", "A cat.", "Sure?", "Yes.")
    (batch,) = Preparer(processor).prepare([sample]).batches
    text = masked_text(batch, 0, processor.tokenizer)
    assert text.strip().startswith("What?")
    assert all(turn in text for turn in ("A cat.", "Sure?", "Yes."))
    assert "helpful" not in text
    image_words = ("image", "img", "IMG", "<row", "vision")
    assert not any(word in text for word in image_words)
    visual = batch.input_ids_BT == processor.image_token_id
    assert int(visual.sum()) == int(batch.image_tokens_U.sum())
    assert not (visual & batch.text_mask_BT).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_own_system_prompt_is_part_of_the_prefix(family):
    """A row's own system prompt is no text of the sample."""
    processor = processor_of(family)
    sample = make_sample("k", [], "Hello", "Hi")
    sample["messages"].insert(0, {"role": "system", "text": "Speak like a pirate."})
    (batch,) = Preparer(processor).prepare([sample]).batches
    text = masked_text(batch, 0, processor.tokenizer)
    assert "pirate" not in text
    assert "Hello" in text


def test_run_that_merges_with_its_neighbours_is_written_out():
    """A processor whose image run starts and ends with plain text gives that processor's own tokens."""
    processor = make_processor("llava")
    tokens = processor.image_token * 4
    processor.replace_image_token = lambda _inputs, image_idx, **_kwargs: f"\n\n{tokens}\n\n"
    sample = make_sample("k", [make_image(0, 30, 30)], "See <image> there", "Yes.")
    (batch,) = Preparer(processor).prepare([sample]).batches
    text = "USER: See <image> there ASSISTANT: Yes. "
    expected = processor(text=[text], images=[sample["images"]], return_tensors="pt")
    assert batch.input_ids_BT.tolist() == expected["input_ids"].tolist()
    assert int(batch.image_tokens_U.sum()) == 4
    assert processor.image_token not in masked_text(batch, 0, processor.tokenizer)


def test_bos_is_not_text():
    """The token that the tokenizer adds in front is in the sequence and not in the text mask."""
    processor = processor_of("llava")
    (batch,) = Preparer(processor).prepare([make_sample("k", [], "Hello", "Hi")]).batches
    assert batch.input_ids_BT[0, 0] == processor.tokenizer.bos_token_id
    prefix_tokens = 1 + len(PREFIXES["llava"])
    assert batch.text_mask_BT[0].tolist() == [False] * prefix_tokens + [True] * (
        batch.input_ids_BT.shape[1] - prefix_tokens
    )


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_without_a_chat_template_turns_are_plain_lines(family):
    """A processor without a template gets USER/ASSISTANT lines with its image token in place."""
    processor = make_processor(family, template=False)
    sample = make_sample("k", [make_image(0, 30, 30)], "<image>\nWhat?", "A cat.")
    window = Preparer(processor).prepare([sample])
    assert window.failures == []
    (batch,) = window.batches
    text = processor.tokenizer.decode(batch.input_ids_BT[0].tolist())
    assert "USER: " in text
    assert text.endswith("\nWhat?\nASSISTANT: A cat.")
    assert masked_text(batch, 0, processor.tokenizer).lstrip("\n") == "What?\nASSISTANT: A cat."


def test_each_failure_has_its_reason_and_others_go_on():
    """Every bad row is returned once with a countable reason; good rows are in the batches."""

    def broken() -> Image.Image:
        return Image.open(io.BytesIO(b"not an image"))

    processor = processor_of("qwen2_vl")
    thin = make_image(0, 2010, 5)
    rows = [
        make_sample("good", [make_image(1, 30, 30)], "<image>a", "b"),
        make_sample("undecodable", [broken], "<image>a", "b"),
        make_sample("thin", [thin], "<image>a", "b"),
        make_sample("count", [], "<image>a", "b"),
        make_sample("injected", [], "a <|image_pad|> b", "c"),
        make_sample("video", [], "a <|video_pad|> b", "c"),
        make_sample("long", [], "word " * 80, "c"),
        make_sample("endless", [], "x" * 50_000, "c"),
        make_sample("empty", []),
        make_sample("also good", [], "a", "b"),
    ]
    window = Preparer(processor, max_length=300).prepare(rows)
    assert {failure.key: failure.reason for failure in window.failures} == {
        "undecodable": "undecodable_image",
        "thin": "image_processor_error",
        "count": "image_count_mismatch",
        "injected": "special_token_in_text",
        "video": "special_token_in_text",
        "long": "overlong",
        "endless": "overlong",
        "empty": "template_error",
    }
    assert sorted(key for batch in window.batches for key in batch.keys) == ["also good", "good"]


def test_template_that_refuses_a_row_fails_that_row_only():
    """A template's own error is one row's failure."""
    processor = make_processor("llava")
    processor.chat_template = (
        "{% for m in messages %}{% if m['content'][0]['text'] == 'bad' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m['role'] }}: {{ m['content'][0]['text'] }} {% endfor %}"
    )
    window = Preparer(processor).prepare([make_sample("a", [], "bad", "x"), make_sample("b", [], "fine", "x")])
    assert [(failure.key, failure.reason) for failure in window.failures] == [("a", "template_error")]
    assert window.batches[0].keys == ("b",)


def test_overlong_counts_image_tokens():
    """The limit holds after image expansion, to the token."""
    processor = processor_of("llava")
    sample = make_sample("k", [make_image(0, 30, 30)], "<image>\nWhat?", "A cat.")
    (batch,) = Preparer(processor).prepare([sample]).batches
    length = batch.input_ids_BT.shape[1]
    assert Preparer(processor, max_length=length).prepare([sample]).failures == []
    (failure,) = Preparer(processor, max_length=length - 1).prepare([sample]).failures
    assert (failure.reason, failure.detail) == ("overlong", f"{length} tokens, the limit is {length - 1}")


def test_an_image_is_read_once_per_window():
    """Rows that name the same image key share one decode and one entry per batch."""
    calls = []

    def read() -> Image.Image:
        calls.append(1)
        return make_image(0, 30, 30)

    rows = [make_sample(f"k{i}", [lambda: read()], "<image>a", "b") | {"image_keys": ["sha"]} for i in range(4)]
    window = Preparer(processor_of("llava"), max_rows=2).prepare(rows)
    assert len(calls) == 1
    assert [len(batch.image_tokens_U) for batch in window.batches] == [1, 1]


def test_rows_of_an_image_stay_together():
    """Equally long rows are ordered by image, whatever their keys."""
    images = [make_image(i, 30, 30) for i in range(3)]
    rows = [make_sample(f"k{i}", [images[i % 3]], "<image>abc", "def") for i in range(9)]
    window = Preparer(processor_of("llava"), max_rows=3).prepare(rows)
    assert [len(batch.image_tokens_U) for batch in window.batches] == [1, 1, 1]
    assert window.batches[0].keys == ("k0", "k3", "k6")


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    budget=st.integers(50, 3000),
    rows=st.integers(1, 16),
)
def test_packing_keeps_every_row_and_the_budget(lengths, budget, rows):
    """Each row is in exactly one batch; a batch passes the budget only if it is a single row."""
    samples = [make_sample(f"k{i}", [], "x" * length, "y") for i, length in enumerate(lengths)]
    window = Preparer(processor_of("llava"), token_budget=budget, max_rows=rows).prepare(samples)
    assert sorted(r for batch in window.batches for r in batch.rows) == list(range(len(lengths)))
    for batch in window.batches:
        assert batch.num_rows <= rows
        assert batch.num_rows == 1 or batch.num_tokens <= budget


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_bytes_round_trip(family, side, samples):
    """A batch comes back from its bytes equal, and equal windows give equal bytes."""
    preparer = Preparer(processor_of(family), padding_side=side, pixel_dtype=torch.bfloat16)
    (batch,) = preparer.prepare(samples).batches
    data = batch.to_bytes()
    again = PreparedBatch.from_bytes(data)
    assert again.to_bytes() == data == preparer.prepare(samples).batches[0].to_bytes()
    assert (again.keys, again.rows, again.image_counts) == (batch.keys, batch.rows, batch.image_counts)
    assert again.image_inputs["pixel_values"].dtype == torch.bfloat16
    assert again.right_padded == (side == "right")


@pytest.mark.parametrize("family", FAMILIES)
def test_taking_rows_equals_preparing_them(family, samples):
    """A part of a batch has the rows' tokens and images, without the others' padding and images."""
    preparer = Preparer(processor_of(family))
    (batch,) = preparer.prepare(samples).batches
    for start, stop in [(0, 2), (2, 5), (5, 6)]:
        part = batch.take(start, stop)
        order = [next(s for s in samples if s["key"] == key) for key in part.keys]
        alone = [preparer.prepare([sample]).batches[0] for sample in order]
        slot = 0
        for b, single in enumerate(alone):
            row = part.attention_mask_BT[b]
            assert part.input_ids_BT[b][row].tolist() == single.input_ids_BT[0].tolist()
            assert part.text_mask_BT[b][row].tolist() == single.text_mask_BT[0].tolist()
            for position in range(part.image_counts[b]):
                mine = part.images_at([int(part.image_index_S[slot])])
                theirs = single.images_at([int(single.image_index_S[position])])
                assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
                slot += 1
        assert part.input_ids_BT.shape[1] == max(single.input_ids_BT.shape[1] for single in alone)
        assert len(part.image_tokens_U) == len(set(part.image_index_S.tolist()))


def test_settings_are_checked():
    """Settings out of range and processors without image tokens are refused."""
    processor = processor_of("llava")
    with pytest.raises(UserError, match="max_length is 0"):
        Preparer(processor, max_length=0)
    with pytest.raises(UserError, match="'left' or 'right'"):
        Preparer(processor, padding_side="middle")
    with pytest.raises(UserError, match="which tokens stand for an image"):
        Preparer(processor.tokenizer)


def test_window_without_usable_rows():
    """No rows, or failed rows only, give no batch."""
    preparer = Preparer(processor_of("llava"))
    assert preparer.prepare([]).batches == []
    assert np.size(preparer.prepare([make_sample("a", [], "<image>", "x")]).failures) == 1


def test_what_a_processor_asks_for_beside_the_images_is_given():
    """From its settings of text and images, and from its own, as LFM2-VL's wrappers of images are."""

    class Asking:
        def _process_images(self, images, wrappers, padding, **kwargs):
            return images, wrappers, padding, kwargs

    merged = {"wrappers": True, "text_kwargs": {"padding": "left", "unasked": 1}, "images_kwargs": {}}
    assert _further(Asking(), merged) == {"wrappers": True, "padding": "left"}
