"""The extractor against a plain full forward pass per row, its early stop, image sharing and survival of bad rows."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from raycurate.encoding.batch import PreparedBatch
from raycurate.encoding.prepare import Preparer
from raycurate.errors import UserError
from raycurate.features.extractor import ActivationExtractor
from raycurate.models.adapter import VLM, wrap_vlm
from tests.features.conftest import make_sample, reference_row
from tests.tiny_vlms import FAMILIES

LAYERS = (1, 3)


def extract_all(extractor: ActivationExtractor, samples: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """Feature per key; fails the test on any failed row."""
    window = Preparer(extractor.vlm.processor, **settings).prepare(samples)
    assert window.failures == []
    found = {}
    for batch in window.batches:
        result = extractor.extract(PreparedBatch.from_bytes(batch.to_bytes()))
        assert result.ok_N.all(), result.details
        found |= dict(zip(result.keys, result.features_ND, strict=True))
    assert sorted(found) == sorted(sample["key"] for sample in samples)
    return found


def vision_tower(vlm: VLM) -> torch.nn.Module:
    """The module that encodes images."""
    inner = vlm.model.model
    names = ("vision_tower", "vision_model", "visual")
    return next(getattr(inner, name) for name in names if hasattr(inner, name))


class Calls:
    """Counts the calls of a module and the images (leading size, or grid rows) that it saw."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls = 0
        self.images = 0
        self._handle = module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module: Any, args: Any, kwargs: Any) -> None:
        self.calls += 1
        pixels = args[0] if args else kwargs.get("pixel_values")
        grid = kwargs.get("grid_thw")
        self.images += 0 if pixels is None else len(pixels if grid is None else grid)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_exc: Any) -> None:
        self._handle.remove()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_full_forward_row_by_row(family, side, tiny_vlm, samples):
    """Batching, padding, early stop and image sharing change no feature by more than 1e-3."""
    vlm = tiny_vlm(family)
    extractor = ActivationExtractor(vlm, LAYERS)
    found = extract_all(extractor, samples, padding_side=side)
    modules = [vlm.attention_output(layer) for layer in LAYERS]
    for sample in samples:
        expected = reference_row(vlm, family, sample, modules)
        assert np.abs(found[sample["key"]].astype(np.float64) - expected).max() < 1e-3, sample["key"]


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_model_gives_nearly_the_same_rows(family, tiny_vlm, samples):
    """A bfloat16 model with bfloat16 pixels runs through the same path; its rows point the same way."""
    vlm = tiny_vlm(family)
    expected = extract_all(ActivationExtractor(vlm, LAYERS), samples)
    half = wrap_vlm(copy.deepcopy(vlm.model).to(torch.bfloat16), vlm.processor, name="half")
    found = extract_all(ActivationExtractor(half, LAYERS), samples, pixel_dtype=torch.bfloat16)
    for key, row in expected.items():
        assert found[key].astype(np.float64) @ row.astype(np.float64) > 0.99


@pytest.mark.parametrize("variant", ["ffn", "last_layer"])
def test_other_variants_equal_full_forward(variant, tiny_vlm, samples):
    """The MLP and last-layer variants pool the outputs of those modules."""
    vlm = tiny_vlm("llava")
    extractor = ActivationExtractor(vlm, LAYERS, variant)
    found = extract_all(extractor, samples)
    modules = [vlm.layers[i].mlp for i in LAYERS] if variant == "ffn" else [vlm.layers[-1]]
    assert extractor.feature_dim == 2 * len(modules) * vlm.hidden_size
    for sample in samples:
        expected = reference_row(vlm, "llava", sample, modules)
        assert np.abs(found[sample["key"]].astype(np.float64) - expected).max() < 1e-3


def test_boolean_variant_is_the_sign_of_the_mean(tiny_vlm, samples):
    """Every entry of a boolean row has the same magnitude and the sign of the attention feature."""
    vlm = tiny_vlm("llava")
    signs = extract_all(ActivationExtractor(vlm, LAYERS, "boolean"), samples)
    plain = extract_all(ActivationExtractor(vlm, LAYERS), samples)
    row = signs["k0"].astype(np.float64)
    assert np.allclose(np.abs(row), 1 / np.sqrt(len(row)), rtol=1e-3)
    clear = np.abs(plain["k0"]) > 1e-4
    assert np.array_equal(row[clear] > 0, plain["k0"][clear] > 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_image_is_encoded_once(family, tiny_vlm, samples):
    """The tower sees each distinct image once, and features equal those without sharing."""
    vlm = tiny_vlm(family)
    rows = [samples[0], samples[1], samples[3], samples[5]]
    with Calls(vision_tower(vlm)) as shared:
        found = extract_all(ActivationExtractor(vlm, LAYERS), rows)
    alone = dataclasses.replace(vlm, shares_images=False)
    with Calls(vision_tower(vlm)) as repeated:
        expected = extract_all(ActivationExtractor(alone, LAYERS), rows)
    assert shared.calls == repeated.calls == 1
    assert 0 < shared.images < repeated.images
    for key, row in expected.items():
        assert np.abs(found[key].astype(np.float64) - row.astype(np.float64)).max() < 1e-3


def test_later_layers_and_head_do_not_run(tiny_vlm, samples):
    """The pass ends after the last wanted module: not one later layer, MLP or head call."""
    vlm = tiny_vlm("llava")
    watched = [vlm.layers[3].mlp, vlm.layers[4], vlm.layers[5], vlm.model.lm_head]
    counters = [Calls(module) for module in (*watched, vlm.layers[3])]
    extract_all(ActivationExtractor(vlm, LAYERS), samples)
    for counter in counters:
        counter.__exit__()
    assert [counter.calls for counter in counters] == [0, 0, 0, 0, 1]


def test_hooks_are_removed(tiny_vlm, samples):
    """After a pass, and after a pass that failed, no hook is left on the model."""
    vlm = tiny_vlm("llava")
    extractor = ActivationExtractor(vlm, LAYERS)
    extract_all(extractor, samples)
    broken = Preparer(vlm.processor).prepare(samples).batches[0]
    broken.input_ids_BT[:] = 10**6
    extractor.extract(broken)
    assert all(not vlm.attention_output(layer)._forward_hooks for layer in LAYERS)


def test_blocks_have_equal_norm(tiny_vlm, samples):
    """A row with an image has norm 1 and blocks of 1/sqrt(2M); a text-only row has empty vision blocks."""
    vlm = tiny_vlm("smolvlm")
    extractor = ActivationExtractor(vlm)
    found = extract_all(extractor, samples)
    for key, row in found.items():
        norms_M2 = np.linalg.norm(row.astype(np.float64).reshape(-1, 2, vlm.hidden_size), axis=2)
        assert np.linalg.norm(norms_M2) == pytest.approx(1.0, abs=1e-3)
        if key == "k2":
            assert (norms_M2[:, 0] == 0).all()
            assert norms_M2[:, 1] == pytest.approx(1 / np.sqrt(len(extractor.layers)), abs=1e-3)
        else:
            assert norms_M2 == pytest.approx(1 / np.sqrt(extractor.num_blocks), abs=1e-3)


class MemoryLimit(torch.nn.Module):
    """A model that runs out of memory above `max_rows` rows, or on rows that hold a token."""

    def __init__(self, model: Any, max_rows: int, error: Exception, poison: int | None = None) -> None:
        super().__init__()
        self.wrapped, self.max_rows, self.error, self.poison = model, max_rows, error, poison
        self.sizes: list[int] = []

    @property
    def model(self) -> Any:
        """The inner model, where the extractor looks for the vision tower."""
        return self.wrapped.model

    def forward(self, input_ids=None, attention_mask=None, pixel_values=None, mm_encoder_outputs=None):
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.max_rows or (self.poison is not None and (input_ids == self.poison).any()):
            raise self.error
        return self.wrapped(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            mm_encoder_outputs=mm_encoder_outputs,
        )


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_halves_the_batch_and_remembers(error, tiny_vlm, samples):
    """A batch that does not fit is halved until it does, gives the same features, and later ones are cut at once."""
    vlm = tiny_vlm("llava")
    limited = MemoryLimit(vlm.model, 2, error)
    extractor = ActivationExtractor(dataclasses.replace(vlm, model=limited), LAYERS)
    found = extract_all(extractor, samples)
    assert limited.sizes[:4] == [6, 3, 1, 2]
    assert max(limited.sizes[4:]) <= 2
    expected = extract_all(ActivationExtractor(vlm, LAYERS), samples)
    for key, row in expected.items():
        assert np.abs(found[key].astype(np.float64) - row.astype(np.float64)).max() < 1e-3
    tried = len(limited.sizes)
    extract_all(extractor, samples)
    assert 6 not in limited.sizes[tried:]


def test_row_that_does_not_fit_alone_fails_alone(tiny_vlm, samples):
    """One row without enough memory is reported; its neighbours keep their features."""
    vlm = tiny_vlm("llava")
    poison = int(vlm.processor.tokenizer.convert_tokens_to_ids("~"))
    rows = [*samples, make_sample("bad", [], "odd ~ row", "yes")]
    batch = Preparer(vlm.processor).prepare(rows).batches[0]
    for error, reason in [(torch.OutOfMemoryError("x"), "out_of_memory"), (ValueError("bad"), "forward_error")]:
        limited = MemoryLimit(vlm.model, 99, error, poison)
        result = ActivationExtractor(dataclasses.replace(vlm, model=limited), LAYERS).extract(batch)
        failed = [key for key, ok in zip(result.keys, result.ok_N, strict=True) if not ok]
        assert failed == ["bad"]
        assert result.reasons[result.keys.index("bad")] == reason
        assert (result.features_ND[result.keys.index("bad")] == 0).all()


def test_model_that_never_works_raises(tiny_vlm, samples):
    """A few failed rows at the start are rows' failures; eight without one success are the model's error."""
    vlm = tiny_vlm("llava")
    broken = MemoryLimit(vlm.model, 0, ValueError("wrong sizes"))
    extractor = ActivationExtractor(dataclasses.replace(vlm, model=broken), LAYERS)
    batch = Preparer(vlm.processor).prepare(samples).batches[0]
    result = extractor.extract(batch)
    assert result.reasons == ("forward_error",) * 6
    assert result.details[0] == "ValueError: wrong sizes"
    with pytest.raises(ValueError, match="wrong sizes"):
        extractor.extract(batch)


def test_non_finite_row_is_quarantined(tiny_vlm, samples):
    """A row whose activations are not finite fails with that reason and leaves the others alone."""
    vlm = tiny_vlm("llava")
    poison = int(vlm.processor.tokenizer.convert_tokens_to_ids("~"))
    rows = [*samples, make_sample("bad", [], "odd ~ row", "yes")]
    expected = extract_all(ActivationExtractor(vlm, LAYERS), samples)
    weight = vlm.model.get_input_embeddings().weight
    saved = weight.data[poison].clone()
    weight.data[poison] = float("nan")
    try:
        result = ActivationExtractor(vlm, LAYERS).extract(Preparer(vlm.processor).prepare(rows).batches[0])
    finally:
        weight.data[poison] = saved
    for key, row, ok, reason in zip(result.keys, result.features_ND, result.ok_N, result.reasons, strict=True):
        if key == "bad":
            assert (bool(ok), reason) == (False, "non_finite_activation")
        else:
            assert np.abs(row.astype(np.float64) - expected[key]).max() < 1e-3


def test_unknown_variant_names_the_nearest(tiny_vlm):
    """A misspelt variant gets a hint."""
    with pytest.raises(UserError, match="Did you mean 'boolean'"):
        ActivationExtractor(tiny_vlm("llava"), LAYERS, "booleann")


def test_layers_outside_the_model_are_refused(tiny_vlm):
    """A layer beyond the depth names the range; a repeated layer is refused."""
    with pytest.raises(UserError, match="0 to 5"):
        ActivationExtractor(tiny_vlm("llava"), (1, 6))
    with pytest.raises(UserError, match="only once"):
        ActivationExtractor(tiny_vlm("llava"), (1, 1))
