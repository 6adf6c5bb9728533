"""Embeddings of the first layer against plain passes of one row at a time, with attention weights written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from raycurate.encoding.images import ImageReader
from raycurate.encoding.tokens import RowTokenizer, image_token_ids, labels_of
from raycurate.errors import UserError
from raycurate.features.first_layer import FirstLayer, most_attended
from raycurate.features.token_scores import LENGTH, TokenScorer, weighted_mean
from raycurate.models.adapter import VLM
from raycurate.training.collate import Collator
from raycurate.training.data import TrainingRow
from tests.features.conftest import make_image, make_sample
from tests.features.test_token_scores import NoBlank, score_all
from tests.tiny_vlms import FAMILIES

NAMES = ("visual", "attended", "weighted_token")


def plain(vlm: VLM, eager: Any, sample: dict[str, Any]) -> dict[str, np.ndarray | float]:
    """One row alone through the plain attention, in float64 from what its layers give."""
    (row,) = RowTokenizer(vlm.processor, max_length=4096).tokenize([sample])
    reader = ImageReader(vlm.processor, torch.float32)
    labels_T = labels_of(row.ids_T, row.spans_A2, image_token_ids(vlm.processor))
    images = tuple(reader.read(image) for image in sample["images"])
    inputs = Collator(vlm.processor, NoBlank())([TrainingRow(row.ids_T, labels_T, 0, images)])
    inputs = {name: value for name, value in inputs.items() if name not in ("task_ids", "kept_positions", "labels")}
    seen: dict[str, torch.Tensor] = {}
    layer = eager.get_decoder().layers[0]
    handles = [
        layer.register_forward_pre_hook(
            lambda _m, args, named: seen.update(given=(args or [named["hidden_states"]])[0]), with_kwargs=True
        ),
        layer.register_forward_hook(lambda _m, _i, out: seen.update(made=out[0] if isinstance(out, tuple) else out)),
        layer.self_attn.register_forward_hook(lambda _m, _i, out: seen.update(weights=out[1])),
    ]
    with torch.no_grad():
        made = eager(**inputs, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    ids = row.ids_T.tolist()
    visual = [t for t, token in enumerate(ids) if token == vlm.image_token_id]
    hidden_TH = made.hidden_states[-1][0].double().numpy()
    weight = np.arange(1, len(ids) + 1)
    found: dict[str, Any] = {"weighted_token": _unit(weight @ hidden_TH / weight.sum()), "length": 0.0}
    if not visual:
        return {**found, "visual": np.zeros(vlm.hidden_size), "attended": np.zeros(vlm.hidden_size)}
    special = set(vlm.processor.tokenizer.all_special_ids)
    asking = [t for t in range(visual[0], len(ids)) if t not in visual and labels_T[t] < 0 and ids[t] not in special]
    mass = seen["weights"][0].double().numpy().mean(axis=0)[asking].sum(axis=0)
    order, held, chosen = sorted(visual, key=lambda t: (-mass[t], t)), 0.0, []
    for t in order:
        if asking and held >= 0.9 * mass[visual].sum() * (1 - 1e-6):
            break
        chosen.append(t)
        held += mass[t]
    attended = seen["made"][0].double().numpy()[chosen].mean(axis=0)
    found["visual"] = _unit(seen["given"][0].double().numpy()[visual].mean(axis=0))
    return {**found, "attended": _unit(attended), "length": float(np.linalg.norm(attended))}


def _unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_plain_attention_row_by_row(family, side, tiny_vlm, samples):
    """Both embeddings of the first layer and the weighted mean: shared images, rows of text alone, padding."""
    vlm = tiny_vlm(family)
    eager = AutoModelForImageTextToText.from_pretrained(vlm.name, attn_implementation="eager", dtype=torch.float32)
    rows = [*samples, make_sample("last", [make_image(4, 30, 30)], "What is it?\n<image>", "ok")]
    found = score_all(TokenScorer(vlm, losses=False, embeddings=NAMES), rows, padding_side=side)
    for sample in rows:
        expected = plain(vlm, eager.eval(), sample)
        own = found[sample["key"]]
        for name in NAMES:
            assert np.abs(own[name].astype(np.float64) - expected[name]).max() < 1.5e-3, (sample["key"], name)
        assert own[LENGTH] == pytest.approx(expected["length"], rel=1e-3)


def test_what_is_wanted_beside_it_changes_nothing(tiny_vlm, samples):
    """A pass that ends after the first layer, or before it, gives what a whole pass with the losses gives."""
    vlm = tiny_vlm("llava")
    whole = score_all(TokenScorer(vlm, losses=True, embeddings=("mean_token", *NAMES)), samples)
    plain_losses = score_all(TokenScorer(vlm, embeddings=()), samples)
    ran = []
    handle = vlm.layers[1].register_forward_hook(lambda *_: ran.append(True))
    early = score_all(TokenScorer(vlm, losses=False, embeddings=("attended", "visual")), samples)
    handle.remove()
    visual = score_all(TokenScorer(vlm, losses=False, embeddings=("visual",)), samples)
    assert ran == []
    for key, row in whole.items():
        assert row["loss"] == plain_losses[key]["loss"]
        assert np.array_equal(row["attended"], early[key]["attended"])
        assert np.array_equal(row["visual"], visual[key]["visual"])
    assert "attended" not in visual["k0"]
    assert not whole["k2"]["visual"].any()
    assert vlm.layers[0].self_attn.config._attn_implementation == "sdpa"


def test_the_fewest_tokens_that_hold_the_attention():
    """Ties go to the first token, tokens of no image never count, a row without any attention takes all of them."""
    mass = torch.tensor([[0.5, 0.25, 0.25, 9.0], [0.91, 0.05, 0.04, 0.0], [0.2, 0.2, 0.2, 0.4], [0.0, 0.0, 0.0, 0.0]])
    visual = torch.tensor([[True, True, True, False]] * 2 + [[True] * 4, [False, True, True, False]])
    chosen = most_attended(mass, visual)
    assert chosen.tolist() == [
        [True, True, True, False],
        [True, False, False, False],
        [True, True, True, True],
        [False, True, True, False],
    ]


def test_padding_has_no_weight():
    """A NaN behind the row is not read; positions count from the first real token."""
    hidden = torch.tensor([[[1.0], [4.0], [float("nan")]], [[float("nan")], [1.0], [4.0]]])
    real = torch.tensor([[True, True, False], [False, True, True]])
    assert weighted_mean(hidden, real)[:, 0].tolist() == [3.0, 3.0]


def test_a_first_layer_that_cannot_be_looked_at_is_refused(tiny_vlm, monkeypatch):
    """The message names the embedding; `visual` needs no attention."""
    vlm = tiny_vlm("smolvlm")
    monkeypatch.setattr(vlm.layers[0].self_attn.config, "_attn_implementation", "eager")
    FirstLayer(vlm, ("visual",), ends=True)
    with pytest.raises(UserError, match="cannot be looked at, which the embedding 'attended' needs"):
        TokenScorer(vlm, losses=False, embeddings=("attended",))
