"""The CLIP of the demo's data: it learns what belongs together, and loads as any other CLIP."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from raycurate.demo import build_demo_dataset
from raycurate.demo.clip import read_pairs, retrieval, train_clip
from raycurate.errors import UserError

pytest.importorskip("easy_vqa")
pytest.importorskip("sklearn")

BATCH = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A demo at one hundredth of its size."""
    return build_demo_dataset(tmp_path_factory.mktemp("demo") / "set", scale=0.01).out


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, float]:
    """A model of a few steps, and its last loss."""
    folder = tmp_path_factory.mktemp("clip")
    return folder, train_clip(data / "train.json", folder, steps=40, batch_rows=BATCH)


def test_pairs_are_the_rows_with_an_image(data):
    rows = json.loads((data / "train.json").read_text(encoding="utf-8"))
    pairs = read_pairs(data / "train.json")
    assert 0 < len(pairs) == sum("image" in row for row in rows) < len(rows)
    assert all(pair.image.is_file() and "<image>" not in pair.text for pair in pairs)


def test_training_beats_a_blind_choice_of_the_batch(trained):
    """A model that knows nothing has the loss log N."""
    assert trained[1] < math.log(BATCH) - 0.1


def test_it_is_read_off_at_the_end_of_the_text(trained):
    """Padding changes nothing; another text does."""
    model, processor = CLIPModel.from_pretrained(trained[0]).eval(), CLIPProcessor.from_pretrained(trained[0])
    texts = ["is it red? no", "is it red? no, and this is a much longer text that makes the first one padded", "7"]
    with torch.inference_mode():
        both = model.get_text_features(**processor.tokenizer(texts, padding=True, return_tensors="pt"))
        alone = model.get_text_features(**processor.tokenizer(texts[:1], return_tensors="pt"))
    both, alone = (getattr(found, "pooler_output", found) for found in (both, alone))
    assert torch.allclose(both[0], alone[0], atol=1e-4)
    assert not torch.allclose(both[0], both[2], atol=1e-2)


def test_retrieval_is_a_share_that_training_raises(trained, data):
    """On rows that it was trained on, to have something to raise after so few steps."""
    assert 1.5 / 64 < retrieval(trained[0], data / "train.json", groups=4) <= 1


def test_a_missing_dataset_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match="make demo"):
        read_pairs(tmp_path / "train.json")
