"""Batched greedy answers equal transformers' own `generate`, question by question."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from raycurate.encoding.tokens import TokenReject
from raycurate.evaluation.generate import Generator, stop_tokens
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.models.adapter import wrap_vlm
from tests.tiny_vlms import make_model, make_processor

NEW_TOKENS = 5


def _image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (28, 28, 3), dtype=np.uint8))


def _sample(number: int, question: str, *more: str, image: int | None = None, task: str = "t"):
    turns = [("user", ("<image>\n" if image is not None else "") + question), *(("assistant", "yes"),)]
    for text in more:
        turns += [("user", text), ("assistant", f"fine {number}")]
    return {
        "key": f"row-{number}",
        "task": task,
        "messages": [{"role": role, "text": text} for role, text in turns],
        "images": [] if image is None else [lambda: _image(image)],
        "image_keys": [] if image is None else [f"image {image}"],
    }


SAMPLES = [
    _sample(0, "what is it?", image=0),
    _sample(1, "what colour has the thing in the middle of it all?", "and now?", image=0),
    _sample(2, "hi", "a longer second question", "a third"),
    _sample(3, "is it red?", image=1, task="colour"),
    _sample(4, "is it blue?", image=1, task="colour"),
]


def _vlm(family: str):
    processor = make_processor(family)
    return wrap_vlm(make_model(family, processor), processor, name=family)


def _preparer(processor, **settings) -> QuestionPreparer:
    usual = {"max_length": 500, "token_budget": 4000, "max_rows": 4, "pixel_dtype": torch.float32}
    return QuestionPreparer(processor, **{**usual, **settings})


def _prompts(preparer: QuestionPreparer, samples=SAMPLES) -> dict[tuple[int, int], torch.Tensor]:
    """The unpadded prompt ids of every question."""
    found = {}
    for made in preparer.prepare_questions(samples)[0]:
        for b, question in enumerate(made.questions):
            ids = made.batch.input_ids_BT[b][made.batch.attention_mask_BT[b]]
            found[question.position, question.turn] = ids
    return found


def _alone(vlm, ids: torch.Tensor, sample, stops: list[int]) -> str:
    """The answer of plain `generate` to one prompt without padding."""
    inputs = {"input_ids": ids.long()[None], "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if sample["images"]:
        inputs |= dict(vlm.processor.image_processor(images=[sample["images"][0]()], return_tensors="pt"))
        inputs.pop("num_patches", None)
        if getattr(vlm.processor, "return_mm_token_type_ids", False):
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == vlm.image_token_id).long()
    with torch.inference_mode():
        written = vlm.model.generate(
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, use_cache=True, eos_token_id=stops, pad_token_id=0
        )[0, len(ids) :].tolist()
    stop = next((i for i, token in enumerate(written) if token in stops), None)
    return vlm.processor.tokenizer.decode(written[:stop], skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "smolvlm", "internvl"])
def test_batches_answer_as_plain_generate_row_by_row(family):
    """Left padding, shared images and mixed batches change no answer, in any turn."""
    vlm = _vlm(family)
    preparer = _preparer(vlm.processor)
    prompts = _prompts(preparer)
    stops = stop_tokens(vlm.processor, vlm.model.generation_config)
    expected = {(i, turn): _alone(vlm, ids, SAMPLES[i], stops) for (i, turn), ids in prompts.items()}
    generator = Generator(vlm, max_new_tokens=NEW_TOKENS)
    found = {}
    for made in preparer.prepare_questions(SAMPLES)[0]:
        for question, answer in zip(made.questions, generator.answer(made.batch), strict=True):
            found[question.position, question.turn] = answer.text
    assert found == expected
    assert len(found) == 8
    assert len(set(found.values())) > 1, "random weights answer differently to different prompts"


def test_a_prompt_is_the_rendered_conversation_up_to_its_answer():
    """Later turns are asked with the true answers before them, ended as in training, and see no later text."""
    processor = make_processor("qwen2_vl")
    prompts = _prompts(_preparer(processor))
    text = processor.tokenizer.decode(prompts[2, 2])
    frame = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    first = frame + "<|im_start|>assistant\n"
    second = first + "yes<|im_end|>\n<|im_start|>user\na longer second question<|im_end|>\n<|im_start|>assistant\n"
    third = second + "fine 2<|im_end|>\n<|im_start|>user\na third<|im_end|>\n<|im_start|>assistant\n"
    assert text == third
    assert processor.tokenizer.decode(prompts[2, 1]) == second
    assert processor.tokenizer.decode(prompts[2, 0]) == first


def test_an_image_of_a_later_turn_is_not_in_an_earlier_prompt():
    """A question's prompt holds the images of the turns up to it."""
    sample = _sample(0, "first?", "<image>\nsecond?")
    sample |= {"images": [lambda: _image(0)], "image_keys": ["image 0"]}
    processor = make_processor("llava")
    batches, rejects = _preparer(processor, max_rows=1).prepare_questions([sample])
    assert rejects == []
    counts = {made.questions[0].turn: made.batch.image_counts for made in batches}
    assert counts == {0: (0,), 1: (1,)}


def test_batches_are_left_padded_of_one_task_and_decode_an_image_once():
    """Padding is in front; rows of different tasks are not mixed; an image that several rows show is read once."""
    reads = []

    def counted(number: int, image):
        return lambda: reads.append(number) or image()

    samples = [{**s, "images": [counted(i, image) for image in s["images"]]} for i, s in enumerate(SAMPLES)]
    batches, _ = _preparer(make_processor("llava"), max_rows=8).prepare_questions(samples)
    assert len(reads) == 2
    assert all(len({SAMPLES[q.position]["task"] for q in made.questions}) == 1 for made in batches)
    for made in batches:
        assert made.batch.attention_mask_BT[:, -1].all()


def test_rows_that_cannot_be_asked_are_rejected_with_their_reason():
    """No answer to ask for, a damaged image, and a row over the limit each give a countable reason."""
    silent = {**_sample(0, "x"), "messages": [{"role": "user", "text": "x"}]}
    damaged = _sample(1, "x", image=0) | {"images": [lambda: 1 / 0]}
    _, rejects = _preparer(make_processor("llava"), max_length=60).prepare_questions(
        [silent, damaged, _sample(2, "y" * 90), _sample(3, "z")]
    )
    assert all(isinstance(reject, TokenReject) for reject in rejects)
    assert [(r.position, r.reason) for r in rejects] == [(0, "no_answer"), (1, "undecodable_image"), (2, "overlong")]


def test_an_answer_ends_with_the_turn_and_without_the_token_that_ends_it():
    """Text stops at the first stop token; what is not stopped within the limit is marked unfinished."""
    vlm = _vlm("llava")
    preparer = _preparer(vlm.processor)
    generator = Generator(vlm, max_new_tokens=NEW_TOKENS)
    changing = []
    for made in preparer.prepare_questions(SAMPLES)[0]:
        assert all(a.num_tokens == NEW_TOKENS and not a.finished for a in generator.answer(made.batch))
        written = vlm.model.generate(**generator._inputs(made.batch))[:, made.batch.input_ids_BT.shape[1] :].tolist()
        changing += [(made.batch, b, ids) for b, ids in enumerate(written) if len(set(ids)) > 1]
    batch, b, ids = changing[0]
    at = next(i for i in range(1, NEW_TOKENS) if ids[i] not in ids[:i])
    vlm.model.generation_config.eos_token_id = ids[at]
    stopped = Generator(vlm, max_new_tokens=NEW_TOKENS).answer(batch)[b]
    assert (stopped.num_tokens, stopped.finished) == (at + 1, True)
    assert stopped.text == vlm.processor.tokenizer.decode(ids[:at]).strip()


def test_settings_of_a_checkpoint_do_not_make_it_sample():
    """Temperature, penalties and beams that come with a checkpoint are dropped."""
    vlm = _vlm("llava")
    preparer = _preparer(vlm.processor)
    batch = preparer.prepare_questions(SAMPLES)[0][0].batch
    plain = Generator(vlm, max_new_tokens=NEW_TOKENS).answer(batch)
    vlm.model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, num_beams=3)
    assert Generator(vlm, max_new_tokens=NEW_TOKENS).answer(batch) == plain


def test_a_batch_that_does_not_fit_is_halved():
    """Out of memory splits the batch; a question that does not fit alone is None, the others are answered."""
    vlm = _vlm("llava")
    batch = next(m.batch for m in _preparer(vlm.processor).prepare_questions(SAMPLES)[0] if m.batch.num_rows == 4)
    generator = Generator(vlm, max_new_tokens=2)
    expected = generator.answer(batch)
    plain, sizes = generator._answer, []

    def tight(part):
        sizes.append(part.num_rows)
        if part.num_rows > 2 or part.keys == batch.keys[:1]:
            raise torch.OutOfMemoryError("out of memory")
        return plain(part)

    generator._answer = tight
    found = generator.answer(batch)
    assert sizes[0] == 4
    assert sizes.count(4) == 1
    assert generator.answer(batch) == found
    assert sizes.count(4) == 1, "a size that did not fit is not tried again"
    assert found[2:] == expected[2:]
    assert all(answer in (None, one) for answer, one in zip(found, expected, strict=True))
