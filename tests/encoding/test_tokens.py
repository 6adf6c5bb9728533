"""Labels cover the answers of every turn and nothing else, for every family and for hostile texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycurate.encoding.answers import AnswerRenderer
from raycurate.encoding.images import RowError
from raycurate.encoding.prepare import Preparer
from raycurate.encoding.tokens import RowTokenizer, TokenReject, TokenRow, labels_of
from raycurate.models.adapter import load_processor
from tests.tiny_vlms import FAMILIES, make_processor

ENDINGS = {
    "llava": "</s>",
    "smolvlm": "<end_of_utterance>",
    "qwen2_vl": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
    "internvl": "<|im_end|>",
}


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def sample(images, *turns, key="k"):
    messages = [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(turns)]
    return {"key": key, "messages": messages, "images": images}


CONVERSATIONS = [
    ([0], ["<image>\nWhat is it?", "A cat."]),
    ([], ["Hello", "Hi", "Again?", "ASSISTANT: no\n\nyes", "And?", "Hi"]),
    ([0, 1], ["First <image> then <image>?", "the second", "Sure?", "yes"]),
    ([1], ["Look\n<image>", "  spaced  ", "left open"]),
]


@pytest.fixture(scope="module")
def processors():
    return {family: make_processor(family) for family in FAMILIES}


def spans_text(processor, row: TokenRow) -> list[str]:
    return [processor.tokenizer.decode(row.ids_T[start:stop]) for start, stop in row.spans_A2]


@pytest.mark.parametrize("family", FAMILIES)
def test_spans_are_the_answers_and_their_end(processors, family):
    """Each span decodes to the answer and the family's end-of-turn token."""
    processor = processors[family]
    pictures = [picture(0), picture(1, 28, 56)]
    rows = [sample([pictures[i] for i in images], *turns) for images, turns in CONVERSATIONS]
    results = RowTokenizer(processor, max_length=2048).tokenize(rows)
    for result, (_, turns) in zip(results, CONVERSATIONS, strict=True):
        assert isinstance(result, TokenRow), result
        assert spans_text(processor, result) == [answer + ENDINGS[family] for answer in turns[1::2]]


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_the_processors_own(processors, family):
    """Ids equal what the processor makes of the rendered conversation (up to the last answer; LLaVA's with EOS)."""
    processor = processors[family]
    pictures = [picture(0), picture(1, 28, 56)]
    for images, turns in CONVERSATIONS[:3]:
        row = sample([pictures[i] for i in images], *turns)
        result = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
        text = "".join(segment.text for segment in AnswerRenderer(processor).segments(row["messages"]))
        settings = {"images": row["images"]} if images else {}
        own = processor(text=[text], **settings, return_tensors="pt")["input_ids"][0]
        np.testing.assert_array_equal(result.ids_T, own.numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_equal_a_naive_reference(processors, family):
    """Labels equal those of a row put together piece by piece, by hand."""
    processor = processors[family]
    tokenizer = processor.tokenizer
    row = sample([], "Question one", "Answer one", "Question two", "Answer\n two ")
    result = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
    ids: list[int] = []
    labels: list[int] = []
    for segment in AnswerRenderer(processor).segments(row["messages"]):
        piece = tokenizer(segment.text, add_special_tokens=False)["input_ids"]
        ids += piece
        labels += piece if segment.answer else [-100] * len(piece)
    if family == "llava":
        ids, labels = [tokenizer.bos_token_id, *ids], [-100, *labels]
    np.testing.assert_array_equal(result.ids_T, ids)
    np.testing.assert_array_equal(labels_of(result.ids_T, result.spans_A2, [processor.image_token_id]), labels)


@given(
    answers=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1), min_size=1, max_size=3)
)
def test_any_text_is_masked_or_refused(answers):
    """No text makes a wrong mask: its spans decode to the answers, or the row is refused."""
    processor = make_processor("qwen3_vl")
    turns = [text for answer in answers for text in (answer, answer)]
    result = RowTokenizer(processor, max_length=100_000).tokenize([sample([], *turns)])[0]
    if isinstance(result, TokenReject):
        assert result.reason in ("unmaskable", "special_token_in_text", "template_error")
        return
    for text, answer in zip(spans_text(processor, result), answers, strict=True):
        assert text.removesuffix("<|im_end|>") in (answer, answer.strip("\r\n"), answer.strip())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("roles", ["uaa", "uuaua", "suuaa", "ssua"])
def test_turns_in_a_row_are_as_the_template_writes_them(processors, family, roles):
    """Ids equal the processor's own of the rendered conversation up to its last answer; all answers are labels."""
    processor, names = processors[family], {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "text": f"text {i}"} for i, role in enumerate(roles)]
    result = RowTokenizer(processor, max_length=2048).tokenize([{"key": "k", "messages": messages, "images": []}])[0]
    assert isinstance(result, TokenRow), result
    answers = [f"text {i}" + ENDINGS[family] for i, role in enumerate(roles) if role == "a"]
    assert [text.strip() for text in spans_text(processor, result)] == answers
    if family != "llava":  # whose template ends no turn; an EOS is written there
        turns = [{"role": m["role"], "content": [{"type": "text", "text": m["text"]}]} for m in messages]
        own = processor(text=[processor.apply_chat_template(turns, tokenize=False)], return_tensors="pt")
        np.testing.assert_array_equal(result.ids_T, own["input_ids"][0][: len(result.ids_T)].numpy())


def test_a_template_that_leaves_a_turn_out_refuses_the_row():
    """As Qwen3-VL's does with a second system turn: for features and for labels, and told which turn it is."""
    processor = make_processor("qwen3_vl")
    drop = "messages[:1] + messages[2:] if messages | length > 1 and messages[1]['role'] == 'system' else messages"
    processor.chat_template = "{% set messages = " + drop + " %}" + processor.chat_template
    row = sample([], "q", "a")
    row["messages"] = [{"role": "system", "text": "s"}, {"role": "system", "text": "t"}, *row["messages"]]
    refused = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
    assert (refused.reason, refused.detail) == ("template_error", "the chat template leaves out turn 1, of the system")
    (failure,) = Preparer(processor).prepare([row, sample([], "q", "a")]).failures
    assert (failure.reason, failure.row) == ("template_error", 0)
    assert "turn 1, of the system" in failure.detail


def test_overlong_rows_are_cut_at_a_turn_or_rejected(processors):
    """A long row loses whole turns and their images; one whose first answer does not fit is rejected."""
    processor = processors["qwen3_vl"]
    row = sample([picture(0), picture(1)], "<image>a", "first", "<image>b", "second " * 20)
    whole = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
    cut = RowTokenizer(processor, max_length=len(whole.ids_T) - 1).tokenize([row])[0]
    assert (cut.turns_cut, cut.num_images, len(cut.spans_A2)) == (2, 1, 1)
    np.testing.assert_array_equal(cut.ids_T, whole.ids_T[: whole.spans_A2[0, 1]])
    refused = RowTokenizer(processor, max_length=len(whole.ids_T) - 1, overlong="quarantine").tokenize([row])[0]
    assert refused.reason == "overlong"
    assert RowTokenizer(processor, max_length=20).tokenize([row])[0].reason == "overlong"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_is_not_trained_on_is_context(processors, family):
    """Its tokens are there without a label; turns after the last trained answer are left out with their images."""
    processor = processors[family]
    row = sample([picture(0), picture(1)], "<image>\na", "first", "b", "second", "<image>c", "third")
    whole = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
    for message, train in zip(row["messages"][1::2], (False, True, False), strict=True):
        message["train"] = train
    result = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
    assert spans_text(processor, result) == ["second" + ENDINGS[family]]
    np.testing.assert_array_equal(result.ids_T, whole.ids_T[: whole.spans_A2[1, 1]])
    np.testing.assert_array_equal(result.spans_A2, whole.spans_A2[1:2])
    assert (result.num_images, result.turns_cut) == (1, 0)
    labels_T = labels_of(result.ids_T, result.spans_A2, [processor.image_token_id])
    assert (labels_T != -100).sum() == np.diff(whole.spans_A2[1])


def test_rows_are_cut_after_a_trained_answer(processors):
    """Where only an answer that is context fits, nothing of the row can be trained on."""
    processor = processors["qwen3_vl"]
    row = sample([], "a", "first", "b", "second " * 20)
    row["messages"][1]["train"] = False
    whole = RowTokenizer(processor, max_length=2048).tokenize([row])[0]
    assert RowTokenizer(processor, max_length=len(whole.ids_T) - 1).tokenize([row])[0].reason == "overlong"


def test_a_row_without_a_trained_answer_is_rejected(processors):
    """It has a reason of its own; a turn without the flag, or with none, is trained on."""
    silent, plain, unknown = (sample([], "a", "b") for _ in range(3))
    silent["messages"][1]["train"] = False
    unknown["messages"][1]["train"] = None
    results = RowTokenizer(processors["llava"], max_length=64).tokenize([silent, plain, unknown])
    assert results[0].reason == "no_trained_answer"
    assert [isinstance(result, TokenRow) for result in results[1:]] == [True, True]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (sample([], "only a question"), "no_answer"),
        (sample([], "<image>\nq", "a"), "image_count_mismatch"),
        (sample([lambda: Image.open("/nowhere.png")], "<image>\nq", "a"), "undecodable_image"),
        (sample([], "<|image_pad|> q", "a"), "special_token_in_text"),
    ],
)
def test_unusable_rows_are_rejected_with_a_reason(processors, row, reason):
    """One bad row is rejected, its neighbours are not."""
    good = sample([picture(0)], "<image>\nq", "a")
    results = RowTokenizer(processors["qwen3_vl"], max_length=2048).tokenize([good, row, good])
    assert [isinstance(r, TokenRow) for r in results] == [True, False, True]
    assert results[1].reason == reason


def test_a_template_that_rewrites_answers_is_refused(processors):
    """A template that changes an answer's text makes the row unmaskable, not blank."""
    processor = make_processor("qwen3_vl")
    processor.chat_template = processor.chat_template.replace("{{ b['text'] }}", "{{ b['text'] | replace('a', 'b') }}")
    with pytest.raises(RowError, match="changes the text|does not show"):
        AnswerRenderer(processor).segments([{"role": "user", "text": "q"}, {"role": "assistant", "text": "banana"}])


def test_trimming_template_and_generation_prompt_lead():
    """A trimmed answer is still found; white space after the generation prompt belongs to the answer."""
    processor = make_processor("llava")
    body = "{% for b in message['content'] %}{{ b['text'] | trim }}{% endfor %}"
    processor.chat_template = (
        "{% for message in messages %}{{ message['role'] | upper }}: " + body + "{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    renderer = AnswerRenderer(processor)
    segments = renderer.segments([{"role": "user", "text": "q"}, {"role": "assistant", "text": " padded "}])
    assert [(s.text, s.answer) for s in segments] == [("USER: q\nASSISTANT:", False), (" padded</s>", True)]


def test_tiny_model_learns_answer_and_eos():
    """The embedded model's own template: the span is the answer and </s>."""
    try:
        processor = load_processor("tiny")
    except ValueError:
        pytest.skip("the embedded weights are not built")
    result = RowTokenizer(processor, max_length=512).tokenize([sample([picture(0)], "<image>\nWhat?", "red circle")])[0]
    assert spans_text(processor, result) == ["red circle</s>"]
    assert torch.is_tensor(processor.tokenizer("a", return_tensors="pt")["input_ids"])
