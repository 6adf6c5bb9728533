"""Forward passes on a GPU against a CPU's: features, token and CLIP scores, answers, batches that do not fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.prepare import Preparer
from raycurate.encoding.token_batches import AnswerPreparer
from raycurate.evaluation.generate import Generator
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.features.clip import ClipPreparer, ClipScorer, clip_facts, load_clip_processor
from raycurate.features.extractor import ActivationExtractor
from raycurate.features.first_layer import EARLY
from raycurate.features.pooling import VARIANTS
from raycurate.features.survival import OUT_OF_MEMORY, SurvivingPass
from raycurate.features.token_scores import EMBEDDED, TokenScorer
from raycurate.models.adapter import resolve_dtype
from tests.gpu.rows_and_models import FAMILIES, SAMPLES, cosines, largest_gap, load, sample

pytestmark = pytest.mark.gpu
BFLOAT16_COSINE = 0.99
"""The least cosine of a bfloat16 feature row with the float32 one; 6 layers of random weights round a lot."""


def features(folder, device, dtype="float32", variant="attn", rows=SAMPLES):
    """Features of the samples, [n, D], in their order."""
    vlm = load(folder, device, dtype)
    extractor = ActivationExtractor(vlm, None, variant)
    window = Preparer(vlm.processor, token_budget=600, max_rows=8, pixel_dtype=vlm.dtype).prepare(rows)
    assert window.failures == []
    found = {}
    for batch in window.batches:
        result = extractor.extract(PreparedBatch.from_bytes(batch.to_bytes()))
        assert result.ok_N.all(), result.details
        found |= dict(zip(result.keys, result.features_ND, strict=True))
    return np.stack([found[row["key"]] for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_features_are_the_cpus(device, folders, family):
    """Every family: shared images, several images, several turns, text alone."""
    folder = folders(family)
    assert largest_gap(features(folder, device), features(folder, "cpu")) <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_features_are_near_the_cpus_float32(device, folders, family):
    """Each row points where the float32 row points."""
    folder = folders(family)
    assert cosines(features(folder, device, "bfloat16"), features(folder, "cpu")).min() >= BFLOAT16_COSINE


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("attn", "boolean")])
def test_variants_are_the_cpus(device, variant):
    """The feed-forward's output and the last layer."""
    assert largest_gap(features("tiny", device, variant=variant), features("tiny", "cpu", variant=variant)) <= 1e-4


def test_signs_are_the_cpus_but_for_zeros(device):
    """`boolean` features: a sign may turn where the mean is nothing but rounding."""
    found, expected = features("tiny", device, variant="boolean"), features("tiny", "cpu", variant="boolean")
    assert (found != expected).mean() < 1e-3


def token_scores(folder, device, blind=False):
    """Columns by key."""
    vlm = load(folder, device)
    scorer = TokenScorer(vlm, embeddings=(*EMBEDDED, *EARLY))
    preparer = AnswerPreparer(vlm.processor, max_length=4096, token_budget=600, max_rows=8)
    batches, rejects = preparer.prepare_answers(SAMPLES, blind=blind)
    assert rejects == []
    found = {}
    for batch in batches:
        result = scorer.score(PreparedBatch.from_bytes(batch.to_bytes()))
        assert set(result.reasons) == {None}, result.details
        for i, key in enumerate(batch.keys):
            found[key] = {name: values[i] for name, values in result.columns.items()}
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_token_scores_are_the_cpus(device, folders, family):
    """Loss, EL2N, margin, counts, and the embeddings."""
    folder = folders(family)
    found, expected = token_scores(folder, device), token_scores(folder, "cpu")
    assert found.keys() == expected.keys()
    for key, columns in expected.items():
        assert found[key]["answer_tokens"] == columns["answer_tokens"]
        for name in ("loss", "el2n", "aum"):
            assert found[key][name] == pytest.approx(columns[name], rel=1e-3, abs=1e-4), (key, name)
        for name in ("last_token", "mean_token"):
            assert largest_gap(found[key][name], columns[name]) <= 2e-4, (key, name)
        for name in ("weighted_token", *EARLY):
            assert largest_gap(found[key][name], columns[name]) <= 1e-3, (key, name)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_clip_scores_are_the_cpus(device, kind, tmp_path):
    """Cosines and embeddings; a row of text alone has no score."""
    from tests.tiny_clip import make_tiny_clip

    try:
        folder = str(make_tiny_clip(tmp_path / kind, kind=kind))
    except AttributeError as error:
        pytest.skip(f"transformers {transformers.__version__} cannot build {kind}: {error}")
    facts = clip_facts(folder, transformers.AutoConfig.from_pretrained(folder))
    settings = {"max_tokens": facts.max_tokens, "pad_to_max": facts.pad_to_max, "max_rows": 4}
    batches, failures = ClipPreparer(load_clip_processor(folder), dtype=torch.float32, **settings).prepare(SAMPLES)
    assert failures == []
    ours = ClipScorer(folder, device=device.type, dtype="float32")
    theirs = ClipScorer(folder, device="cpu", dtype="float32")
    for batch in batches:
        found, expected = ours.score(batch), theirs.score(batch)
        np.testing.assert_allclose(found["clip_score"], expected["clip_score"], atol=1e-5)
        np.testing.assert_array_equal(found["has_image"], expected["has_image"])
        assert largest_gap(found["embedding"], expected["embedding"]) <= 1e-4


def answers(folder, device, max_rows=4):
    """Answers of every question, by row and turn."""
    vlm = load(folder, device)
    settings = {"max_length": 500, "token_budget": 4000, "max_rows": max_rows, "pixel_dtype": torch.float32}
    generator = Generator(vlm, max_new_tokens=6)
    found = {}
    for made in QuestionPreparer(vlm.processor, **settings).prepare_questions(SAMPLES)[0]:
        for question, answer in zip(made.questions, generator.answer(made.batch), strict=True):
            found[question.position, question.turn] = answer
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_cpus(device, folders, family):
    """Greedy tokens in float32."""
    folder = folders(family)
    found, expected = answers(folder, device), answers(folder, "cpu")
    assert len(expected) > len(SAMPLES) - 2
    assert found == expected


def test_auto_is_bfloat16_on_a_gpu():
    """What `dtype: auto` and the screen of k-means take."""
    from raycurate.clustering.product import product_for

    assert resolve_dtype("auto", "cuda") is torch.bfloat16
    assert product_for(torch.device("cuda"), "exact").dtype is torch.bfloat16


# memory


def test_a_batch_that_does_not_fit_is_halved(cuda):
    """The device's own error: 8 rows that take 0.3 of the memory each run two by two, and nothing is lost."""
    total = torch.cuda.get_device_properties(cuda).total_memory
    sizes = []

    def forward(part):
        room = torch.empty(int(0.3 * total) * part.num_rows, dtype=torch.uint8, device=cuda)
        del room
        sizes.append(part.num_rows)
        return {"row": np.array(part.rows, dtype=np.float64)}, [None] * part.num_rows

    result = SurvivingPass(forward, {"row": ((), np.float64)}, cuda)(plain_batch(8))
    assert result.columns["row"].tolist() == list(range(8))
    assert sizes == [2, 2, 2, 2]
    torch.cuda.empty_cache()


def test_a_row_that_does_not_fit_alone_is_named(cuda):
    """Its neighbours have their numbers."""
    total = torch.cuda.get_device_properties(cuda).total_memory

    def forward(part):
        torch.empty(int(1.5 * total) if 3 in part.rows else 1024, dtype=torch.uint8, device=cuda)
        return {"row": np.array(part.rows, dtype=np.float64)}, [None] * part.num_rows

    result = SurvivingPass(forward, {"row": ((), np.float64)}, cuda)(plain_batch(8))
    assert [reason for reason in result.reasons if reason] == [OUT_OF_MEMORY]
    assert result.reasons[3] == OUT_OF_MEMORY
    assert result.columns["row"].tolist() == [0, 1, 2, 0, 4, 5, 6, 7]


def test_a_model_survives_a_full_device(cuda):
    """A limit between what half of a batch takes and what all of it takes: the same features as without."""
    rows = [sample(f"r{i}", [], "word " * 120, "yes " * 20) for i in range(64)]
    vlm = load("tiny", cuda)
    (batch,) = Preparer(vlm.processor, token_budget=10**6, max_rows=64).prepare(rows).batches
    extractor = ActivationExtractor(vlm)
    expected = extractor.extract(batch)
    peaks = {}
    for count in (64, 8):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(cuda)
        extractor.extract(batch.take(0, count))
        peaks[count] = torch.cuda.max_memory_reserved(cuda)
    limit = (peaks[64] + peaks[8]) // 2
    if peaks[64] < 1.5 * peaks[8]:
        pytest.skip(f"the batch is too small to fill a device: {peaks}")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(cuda).total_memory)
    try:
        found = extractor.extract(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.ok_N.all(), found.details
    assert extractor._pass._max_tokens is not None, "nothing was halved"
    assert largest_gap(found.features_ND, expected.features_ND) <= 1e-4


def test_questions_that_do_not_fit_are_asked_in_halves(cuda, monkeypatch):
    """Answers in their order, None for the question that does not fit alone."""
    vlm = load("tiny", cuda)
    generator = Generator(vlm, max_new_tokens=4)
    total = torch.cuda.get_device_properties(cuda).total_memory
    settings = {"max_length": 500, "token_budget": 4000, "max_rows": 8, "pixel_dtype": torch.float32}
    made = max(
        QuestionPreparer(vlm.processor, **settings).prepare_questions(SAMPLES)[0], key=lambda m: len(m.questions)
    )
    expected = generator.answer(made.batch)
    plain = generator.network.generate

    def hungry(**inputs):
        torch.empty(int(0.7 * total) * len(inputs["input_ids"]), dtype=torch.uint8, device=cuda)
        return plain(**inputs)

    monkeypatch.setattr(generator, "network", SimpleNamespace(generate=hungry))
    assert generator.answer(made.batch) == expected


def plain_batch(rows: int) -> PreparedBatch:
    """A batch of text rows."""
    ids = torch.arange(rows * 5, dtype=torch.int32).reshape(rows, 5)
    mask = torch.ones(rows, 5, dtype=torch.bool)
    return PreparedBatch(
        keys=tuple(f"k{i}" for i in range(rows)),
        rows=tuple(range(rows)),
        input_ids_BT=ids,
        attention_mask_BT=mask,
        text_mask_BT=mask,
        image_counts=(0,) * rows,
        image_index_S=torch.zeros(0, dtype=torch.int32),
        image_tokens_U=torch.zeros(0, dtype=torch.int32),
    )
