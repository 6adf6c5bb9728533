"""CLIP and SigLIP scores in batches against one image and one text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, LlamaConfig

from raycurate.errors import UserError
from raycurate.features.clip import (
    ClipBatch,
    ClipPreparer,
    ClipScorer,
    clip_facts,
    instruction_of,
    load_clip_processor,
)
from tests.features.conftest import make_sample
from tests.features.test_token_scores import keyed
from tests.tiny_clip import make_tiny_clip


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_equal_one_row_at_a_time(kind, tmp_path, samples):
    """Batches, shared images, several images and long texts; a row of text alone has no score."""
    folder = str(make_tiny_clip(tmp_path / kind, kind=kind))
    facts = clip_facts(folder, AutoConfig.from_pretrained(folder))
    processor = load_clip_processor(folder)
    rows = [*samples, make_sample("long", samples[0]["images"], "<image>\n" + "what is it? " * 30, "a cat")]
    preparer = ClipPreparer(
        processor, max_tokens=facts.max_tokens, pad_to_max=facts.pad_to_max, max_rows=4, dtype=torch.float32
    )
    batches, failures = preparer.prepare(keyed(rows))
    assert failures == []
    scorer = ClipScorer(folder, device="cpu", dtype="float32")
    model = AutoModel.from_pretrained(folder).eval()
    padding = {"padding": "max_length"} if kind == "siglip" else {}
    seen = []
    for batch in batches:
        found = scorer.score(ClipBatch.from_bytes(batch.to_bytes()))
        assert found["embedding"].shape == (len(batch.rows), 2 * facts.dimension)
        for i, row in enumerate(batch.rows):
            sample = rows[row]
            text = processor.tokenizer(
                instruction_of(sample), truncation=True, max_length=24, return_tensors="pt", **padding
            )
            with torch.no_grad():
                t = model.get_text_features(input_ids=text["input_ids"]).pooler_output[0]
                shown = [processor.image_processor(images=[x], return_tensors="pt") for x in sample["images"]]
                images = [model.get_image_features(**x).pooler_output[0] for x in shown]
            t = (t / t.norm()).numpy()
            if not images:
                assert np.isnan(found["clip_score"][i])
                assert not found["has_image"][i]
                assert np.abs(found["embedding"][i, facts.dimension :] - t).max() < 1e-3
                assert (found["embedding"][i, : facts.dimension] == 0).all()
            else:
                v = sum((x / x.norm()).numpy() for x in images)
                v = v / np.linalg.norm(v)
                assert found["clip_score"][i] == pytest.approx(float(v @ t), abs=1e-5)
                assert np.abs(found["embedding"][i] * np.sqrt(2) - np.concatenate([v, t])).max() < 2e-3
            seen.append(row)
    assert seen == list(range(len(rows)))


def test_a_broken_image_fails_its_row_only(tmp_path, samples):
    """The reason is named; the others are encoded."""
    folder = str(make_tiny_clip(tmp_path / "clip"))
    preparer = ClipPreparer(
        load_clip_processor(folder), max_tokens=24, pad_to_max=False, max_rows=4, dtype=torch.float32
    )

    def broken():
        raise OSError("truncated")

    rows = [*keyed(samples[:2]), {**keyed(samples[:1])[0], "key": "bad", "images": [broken], "image_keys": ["broken"]}]
    batches, failures = preparer.prepare(rows)
    assert [(f.row, f.key, f.reason) for f in failures] == [(2, "bad", "undecodable_image")]
    assert [row for batch in batches for row in batch.rows] == [0, 1]


def test_a_model_that_is_not_clip_is_refused():
    """The message says what to give."""
    with pytest.raises(UserError, match="is no CLIP or SigLIP model; give --clip openai/clip"):
        clip_facts("some/llama", LlamaConfig())
