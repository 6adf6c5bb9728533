"""CLIP's towers against what a profiler counts in transformers' own networks, and their place in an estimate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from raycurate.config import ScoreConfig
from raycurate.errors import UserError
from raycurate.estimate.contrastive import clip_work, read_towers, towers_of
from raycurate.estimate.places import this_machine
from raycurate.estimate.plan import Planner
from raycurate.models.source import resolve_model
from raycurate.settings import make_config
from tests.estimate.facts import RATES, SOURCE
from tests.tiny_clip import make_tiny_clip


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_towers_have_the_flop_that_a_profiler_counts(kind):
    size = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {**size, "image_size": 112, "patch_size": 14}
    text = {**size, "max_position_embeddings": 40, "vocab_size": 100}
    make = hf.CLIPConfig if kind == "clip" else hf.SiglipConfig
    network = hf.AutoModel.from_config(make(text_config=text, vision_config=vision), attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(input_ids=torch.zeros((1, 40), dtype=torch.long), pixel_values=torch.zeros(1, 3, 112, 112))
    source = replace(SOURCE, rows=1, distinct=1.0, chars=1000)
    work = clip_work(source, towers_of(network), clip_rows=8, most_cards=1)
    assert work.network_flop == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_published_model_needs_no_file():
    towers = read_towers("openai/clip-vit-large-patch14-336")
    assert (towers.patches, towers.positions, towers.width) == (576, 77, 768)
    assert towers.parameters == pytest.approx(427.9e6, rel=1e-3)


def test_scores_by_clip_are_part_of_an_estimate(tmp_path):
    """Alone, and beside scores of the reference model; a model of another kind is told."""
    planner = Planner(this_machine(2), RATES, sources={"main": SOURCE})
    clip = str(make_tiny_clip(tmp_path / "clip"))
    alone, beside, other = (
        planner.estimate("score", "score", make_config(ScoreConfig, values))
        for values in (
            {"scores": ["clip"], "clip": clip},
            {"scores": ["clip", "token_losses"], "clip": clip, "model": "tiny"},
            {"scores": ["clip"], "clip": str(tmp_path)},
        )
    )
    assert alone.rows == SOURCE.rows
    assert 0 < alone.seconds < beside.seconds
    assert planner.features["clip"] == (SOURCE.rows, 32)
    assert other.seconds is None
    assert "cannot be read here" in other.notes[0]
    with pytest.raises(UserError, match="is of type 'llava', which is no CLIP"):
        read_towers(resolve_model("tiny"))
