"""Token losses and embeddings against plain forward passes of one row at a time, with the model's own loss."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.images import ImageReader
from raycurate.encoding.token_batches import AnswerPreparer, without_images
from raycurate.encoding.tokens import RowTokenizer, image_token_ids, labels_of
from raycurate.errors import UserError
from raycurate.features.gradient_sketches import GradientSketcher
from raycurate.features.token_scores import EMBEDDED, TokenScorer, token_statistics
from raycurate.models.adapter import VLM, load_vlm
from raycurate.training.collate import Collator
from raycurate.training.data import TrainingRow
from tests.features.conftest import make_image, make_sample
from tests.selection import naive_baselines
from tests.tiny_vlms import FAMILIES


def keyed(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples with the identities of their images."""
    return [{**s, "image_keys": [str(id(image)) for image in s["images"]]} for s in samples]


def score_all(scorer: TokenScorer, samples: list[dict[str, Any]], *, blind: bool = False, **settings: Any) -> dict:
    """Columns by key."""
    defaults = {"max_length": 4096, "token_budget": 600, "max_rows": 8}
    preparer = AnswerPreparer(scorer.vlm.processor, **{**defaults, **settings})
    batches, rejects = preparer.prepare_answers(keyed(samples), blind=blind)
    assert rejects == []
    found = {}
    for batch in batches:
        result = scorer.score(PreparedBatch.from_bytes(batch.to_bytes()))
        assert set(result.reasons) == {None}, result.details
        for i, key in enumerate(batch.keys):
            found[key] = {name: values[i] for name, values in result.columns.items()}
    return found


class NoBlank:
    """A dataset that needs no blank row."""

    has_images = False
    num_rows = 0

    def __getitem__(self, index: int) -> TrainingRow:
        raise IndexError(index)


def plain_inputs(vlm: VLM, sample: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """One row alone as a training sees it, and its labels."""
    (row,) = RowTokenizer(vlm.processor, max_length=4096).tokenize([sample])
    reader = ImageReader(vlm.processor, torch.float32)
    labels_T = labels_of(row.ids_T, row.spans_A2, image_token_ids(vlm.processor))
    images = tuple(reader.read(image) for image in sample["images"])
    inputs = Collator(vlm.processor, NoBlank())([TrainingRow(row.ids_T, labels_T, 0, images)])
    return {name: value for name, value in inputs.items() if name not in ("task_ids", "kept_positions")}, labels_T


def plain(vlm: VLM, sample: dict[str, Any]) -> dict[str, Any]:
    """Of one row alone: transformers' own loss, logits and last hidden state."""
    inputs, labels_T = plain_inputs(vlm, sample)
    with torch.no_grad():
        made = vlm.model(**inputs, output_hidden_states=True)
    answer = labels_T[1:] >= 0
    probs_TV = torch.softmax(made.logits[0, :-1].double(), dim=-1).numpy()[answer]
    labels = labels_T[1:][answer]
    others = probs_TV.copy()
    others[np.arange(len(labels)), labels] = -1
    hidden_TH = made.hidden_states[-1][0].double().numpy()
    return {
        "loss": float(made.loss),
        "el2n": naive_baselines.el2n(probs_TV, labels),
        "aum": float((probs_TV[np.arange(len(labels)), labels] - others.max(axis=1)).mean()),
        "answer_tokens": len(labels),
        "last_token": hidden_TH[-1] / np.linalg.norm(hidden_TH[-1]),
        "mean_token": hidden_TH.mean(axis=0) / np.linalg.norm(hidden_TH.mean(axis=0)),
    }


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Numbers within 1e-4, embeddings within a half's rounding."""
    for name in ("loss", "el2n", "aum", "answer_tokens"):
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name
    for name in ("last_token", "mean_token"):
        assert np.abs(found[name].astype(np.float64) - expected[name]).max() < 1e-3, name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_plain_forwards_row_by_row(family, side, tiny_vlm, samples):
    """Batching, padding on either side and shared images change nothing; losses are transformers' own."""
    vlm = tiny_vlm(family)
    found = score_all(TokenScorer(vlm), samples, padding_side=side)
    for sample in samples:
        check(found[sample["key"]], plain(vlm, sample))


def test_the_embedded_model_too():
    """The model in the package, in float32."""
    vlm = load_vlm("tiny", device="cpu", dtype="float32")
    rows = [
        make_sample("a", [make_image(0, 40, 40)], "<image>\nWhat shape is shown?", "circle"),
        make_sample("b", [], "Is it so?", "yes", "Sure?", "no, not at all"),
    ]
    found = score_all(TokenScorer(vlm), rows)
    for row in rows:
        check(found[row["key"]], plain(vlm, row))


def test_blind_rows_are_the_same_answers_without_the_image(tiny_vlm, samples):
    """A blind loss is that of the conversation without its marks; rows of text alone have none."""
    vlm = tiny_vlm("llava")
    found = score_all(TokenScorer(vlm, embeddings=()), samples, blind=True)
    assert sorted(found) == ["k0", "k1", "k3", "k4", "k5"]
    for sample in samples:
        if sample["images"]:
            bare = without_images(sample)
            assert all("<image>" not in message["text"] for message in bare["messages"])
            assert found[sample["key"]]["loss"] == pytest.approx(plain(vlm, bare)["loss"], abs=1e-4)
    assert without_images(samples[0])["messages"][0]["text"] == "What is it?"
    assert without_images(samples[3])["messages"][0]["text"] == "First  then  which?"


def test_chunks_of_logits_change_nothing(tiny_vlm, samples, monkeypatch):
    """One token at a time or all at once: the same numbers."""
    vlm = tiny_vlm("qwen3_vl")
    whole = score_all(TokenScorer(vlm, embeddings=()), samples)
    monkeypatch.setattr("raycurate.features.token_scores.CHUNK_BYTES", 1)
    single = score_all(TokenScorer(vlm, embeddings=()), samples)
    for key, row in whole.items():
        for name, value in row.items():
            assert single[key][name] == pytest.approx(value, abs=1e-6)


def test_token_statistics_of_extreme_logits():
    """A token that is certain, or hopeless, has a finite loss, an EL2N of 0 or sqrt(2), a margin of 1 or -1."""
    logits_PV = torch.tensor([[200.0, 0.0, 0.0], [200.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = token_statistics(logits_PV, torch.tensor([0, 1, 2])).numpy()
    assert found[0] == pytest.approx([0.0, 0.0, 1.0], abs=1e-9)
    assert found[1] == pytest.approx([200.0, np.sqrt(2), -1.0], abs=1e-5)
    assert found[2] == pytest.approx([np.log(3), np.sqrt(2 / 3), 0.0], abs=1e-6)


def test_a_row_that_is_not_finite_leaves_the_others_alone(tiny_vlm, samples):
    """A NaN reaches the numbers of its own row only."""
    vlm = tiny_vlm("llava")
    poison = int(vlm.processor.tokenizer.convert_tokens_to_ids("~"))
    expected = score_all(TokenScorer(vlm), samples)
    weight = vlm.model.get_input_embeddings().weight
    saved = weight.data[poison].clone()
    weight.data[poison] = float("nan")
    try:
        found = score_all(TokenScorer(vlm), [*samples, make_sample("bad", [], "odd ~ row", "yes")])
    finally:
        weight.data[poison] = saved
    assert np.isnan(found["bad"]["loss"])
    assert np.isnan(found["bad"]["last_token"].astype(np.float64)).any()
    for sample in samples:
        assert found[sample["key"]]["loss"] == pytest.approx(expected[sample["key"]]["loss"], abs=1e-5)


@pytest.fixture
def scaled_vlm(tiny_vlm, monkeypatch):
    """A function that makes a model whose forward halves its logits after the head; its first passes may fail."""

    def make(failures: list[str]) -> VLM:
        vlm = tiny_vlm("llava")
        original = type(vlm.model).forward

        def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
            if failures:
                raise torch.OutOfMemoryError(failures.pop())
            made = original(self, *args, **kwargs)
            made.logits = made.logits * 0.5
            if made.loss is not None:
                made.loss = torch.nn.functional.cross_entropy(made.logits[0, :-1], kwargs["labels"][0, 1:])
            return made

        scaled.__signature__ = inspect.signature(original)
        monkeypatch.setattr(type(vlm.model), "forward", scaled)
        return vlm

    return make


@pytest.mark.parametrize("failures", [[], ["once"]])
@pytest.mark.parametrize("embeddings", [(), EMBEDDED])
def test_logits_that_are_not_the_heads_are_the_models_own(scaled_vlm, samples, failures, embeddings):
    """Also where the first look at them ran out of memory, and where the head sees answers only."""
    vlm = scaled_vlm(list(failures))
    found = score_all(TokenScorer(vlm, embeddings=embeddings), samples)
    for sample in samples:
        expected = plain(vlm, sample)
        for name in ("loss", "el2n", "aum", *(set(embeddings) & expected.keys())):
            assert found[sample["key"]][name] == pytest.approx(expected[name], abs=1e-3), name


def test_gradients_of_logits_that_are_not_the_heads_are_refused(scaled_vlm, samples):
    """The losses are passed back through the head alone."""
    vlm = scaled_vlm([])
    sketcher = GradientSketcher(vlm, layers="all", width=8)
    with pytest.raises(UserError, match="changes its logits after the LM head"):
        score_all(TokenScorer(vlm, gradients=sketcher), samples)


def test_rows_that_cannot_be_scored_say_why(tiny_vlm):
    """Too long, or without an answer: a reject with its position, never a score."""
    preparer = AnswerPreparer(tiny_vlm("llava").processor, max_length=40, token_budget=600, max_rows=8)
    rows = [
        make_sample("a", [], "q", "x" * 100),
        make_sample("b", [], "q", "x"),
        make_sample("c", [], "only a question"),
    ]
    batches, rejects = preparer.prepare_answers(keyed(rows))
    assert [key for batch in batches for key in batch.keys] == ["b"]
    assert [(r.position, r.reason) for r in rejects] == [(0, "overlong"), (2, "no_answer")]
