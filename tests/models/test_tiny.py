"""The embedded tiny model: it loads offline, tokenises anything, and has really learned what its corpus asks."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from raycurate.models.tiny import tiny_model_dir
from raycurate.models.tiny.corpus import (
    CorpusRow,
    corpus_row,
    format_box,
    naming_row,
    position_name,
    size_name,
    theme_row,
)
from raycurate.models.tiny.definition import IMAGE, NUM_IMAGE_TOKENS, build_model, build_processor, build_tokenizer
from raycurate.models.tiny.patches import PatchReader, PatchRows, normalise_pixels, patch_targets, scene_words
from raycurate.models.tiny.scenes import COLORS, SHAPES, SIDE, Thing, digits_scene, shapes_scene
from raycurate.models.tiny.train import HELD_OUT_SEED, AnswerRows, answer_accuracy, encode_row, save


@pytest.fixture(scope="module")
def processor():
    """The embedded processor."""
    return AutoProcessor.from_pretrained(tiny_model_dir())


@pytest.fixture(scope="module")
def model():
    """The embedded model in float32."""
    return AutoModelForImageTextToText.from_pretrained(tiny_model_dir(), dtype=torch.float32).eval()


def test_weights_are_small_and_complete() -> None:
    """The folder holds safetensors of at most 8 MB, in bfloat16, and no pickle."""
    names = {path.name for path in tiny_model_dir().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pkl"))}
    assert (tiny_model_dir() / "model.safetensors").stat().st_size <= 8_000_000


def test_it_is_llava(model) -> None:
    """Transformers' own Llava class, deep enough that five layers stand at one to five sixths of its depth."""
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.config.text_config.num_hidden_layers == 6
    assert model.config.image_token_id == 5


@given(st.text())
def test_tokenizer_round_trips_any_text(processor, text: str) -> None:
    """Any unicode text is encoded and comes back unchanged."""
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@given(st.text(alphabet="0123456789", min_size=1, max_size=30))
def test_digits_are_single_tokens(processor, text: str) -> None:
    """A number has as many tokens as digits."""
    assert len(processor.tokenizer.encode(text, add_special_tokens=False)) == len(text)


def test_template_marks_the_answers(processor) -> None:
    """The generation mask covers the answers and their end marks, and agrees with the labels made by construction."""
    row = corpus_row(HELD_OUT_SEED, _first_with("single"))
    messages = []
    for place, (question, answer) in enumerate(row.turns):
        picture = [{"type": "image", "image": row.image}] if place == 0 else []
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, labels = encode_row(row, processor.tokenizer)
    assert list(batch["input_ids"][0]) == ids
    assert [bool(v) for v in batch["assistant_masks"][0]] == [label != -100 for label in labels]


def test_string_content_is_templated_alike(processor) -> None:
    """Messages with plain strings and with content parts give the same text."""
    plain = [{"role": "user", "content": "<image>\nname the shape."}, {"role": "assistant", "content": "circle"}]
    parts = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nname the shape."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "circle"}]},
    ]
    texts = [processor.apply_chat_template(messages, tokenize=False) for messages in (plain, parts)]
    assert texts[0] == texts[1] == "<s><|user|><image>\nname the shape.<|assistant|>circle</s>"


def test_processor_gives_the_training_pixels(processor) -> None:
    """The processor's pixels equal those of the training code, and an image becomes 16 tokens whatever its size."""
    row = corpus_row(0, _first_with("several"))
    batch = processor(text=f"{IMAGE}\nlook", images=row.image, return_tensors="np")
    np.testing.assert_allclose(batch["pixel_values"][0], normalise_pixels(row), atol=1e-5)
    wide = processor(text=f"{IMAGE}\nlook", images=Image.new("RGB", (301, 40)), return_tensors="np")
    assert wide["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert int((wide["input_ids"] == 5).sum()) == NUM_IMAGE_TOKENS


def test_it_answers_held_out_scenes(processor, model) -> None:
    """On scenes it was not trained on it names things far above guessing, and not without the image."""
    for make, skill, least in (
        (naming_row, "naming", 0.9),
        (corpus_row, "single", 0.65),
        (corpus_row, "numbers", 0.55),
    ):
        seen = answer_accuracy(model, processor.tokenizer, rows=64, make=make)[skill]
        blank = answer_accuracy(model, processor.tokenizer, rows=64, make=make, blank=True)[skill]
        assert seen > least
        assert seen > blank + 0.2


def test_it_generates(processor, model) -> None:
    """Greedy generation through the standard interface names the colours of drawn shapes."""
    right = 0
    for seed in range(12):
        scene = shapes_scene(random.Random(f"held-out-{seed}"), 1)
        messages = [
            {
                "role": "user",
                "content": [{"type": "image", "image": scene.image}, {"type": "text", "text": "name the color."}],
            }
        ]
        batch = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=4, do_sample=False)
        answer = processor.decode(out[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        right += answer == scene.things[0].color
    assert right >= 9


def test_rows_depend_on_seed_and_index_alone() -> None:
    """The same (seed, index) gives the same row; another seed gives another."""
    for index in range(20):
        one, two = corpus_row(7, index), corpus_row(7, index)
        assert one.turns == two.turns
        assert (one.image is None) == (two.image is None)
        if one.image is not None and two.image is not None:
            assert one.image.tobytes() == two.image.tobytes()
    assert [corpus_row(7, i).turns for i in range(20)] != [corpus_row(8, i).turns for i in range(20)]


def test_corpus_answers_are_true() -> None:
    """Counts, colours and kinds in the answers agree with the objects of the scene."""
    for index in range(300):
        row = corpus_row(3, index)
        answers = dict(row.turns)
        if "count the shapes." in answers:
            assert answers["count the shapes."] == str(len(row.things))
        if "name the shape." in answers:
            assert answers["name the shape."] == row.things[0].kind
        if "read the number." in answers:
            assert answers["read the number."] == "".join(thing.kind for thing in row.things)
        assert all(question and answer for question, answer in row.turns)


def test_shapes_lie_in_their_boxes() -> None:
    """The pixels that differ from the background are the box, to within the two pixels of smoothing."""
    for seed in range(40):
        scene = shapes_scene(random.Random(seed), 1)
        pixels = np.asarray(scene.image).astype(int)
        inside = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(-1) > 40
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        np.testing.assert_allclose(found, scene.things[0].box, atol=2.01)
        assert scene.things[0].kind in SHAPES
        assert scene.things[0].color in COLORS


def test_digits_are_written_in_order() -> None:
    """A line of digits has one thing per digit, left to right, each inside the image."""
    for seed in range(20):
        things = digits_scene(random.Random(seed), ["9071", "23"]).things
        assert [thing.kind for thing in things] == list("907123")
        assert [thing.box[0] for thing in things[:4]] == sorted(thing.box[0] for thing in things[:4])
        assert all(0 <= v <= SIDE for thing in things for v in thing.box)


def test_names_of_a_box() -> None:
    """A box is told as fractions, its place by thirds, its size by its longer side."""
    thing = Thing("circle", "red", (0, 16, 32, 48))
    assert format_box(thing) == "[0.00, 0.25, 0.50, 0.75]"
    assert position_name(thing) == "middle left"
    assert size_name(thing) == "large"


def test_patch_targets_name_the_patch_of_the_middle() -> None:
    """The target stands at the patch that holds the middle of the object; other patches are empty."""
    targets = patch_targets([Thing("star", "blue", (20, 36, 28, 44)), Thing("7", "white", (48, 0, 64, 16))])
    assert targets["kinds"].nonzero().flatten().tolist() == [3, 9]
    assert targets["tints"][9] == list(COLORS).index("blue")
    assert targets["tints"][3] == -100
    torch.testing.assert_close(targets["boxes"][9], torch.tensor([20, 36, 28, 44]) / SIDE)


def test_windows_keep_every_row(processor) -> None:
    """Grouping by length serves each row exactly once."""
    data = AnswerRows(processor.tokenizer, [(20, naming_row), (30, theme_row)], seed=11, batch=2)
    served = sorted(data[index].ids for index in range(len(data)))
    rows = [*(naming_row(11, index) for index in range(20)), *(theme_row(11, index) for index in range(30))]
    assert served == sorted(encode_row(row, processor.tokenizer)[0] for row in rows)


def test_fresh_model_learns_and_saves(tmp_path) -> None:
    """A fresh model built from the definition has both losses, and what `save` writes loads again."""
    tokenizer = build_tokenizer(f"{q}\n{a}" for i in range(50) for q, a in corpus_row(0, i).turns)
    model = build_model(tokenizer)
    patches = [PatchRows(4, seed=0)[index] for index in range(4)]
    words = scene_words(model, tokenizer)
    reader = PatchReader(model.model.vision_tower, model.model.multi_modal_projector, words)
    loss = reader(**{name: torch.stack([p[name] for p in patches]) for name in patches[0]})
    loss["loss"].backward()
    data = AnswerRows(tokenizer, [(4, corpus_row)], seed=0, batch=4)
    out = model(**data.collate([data[index] for index in range(4)]))
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.language_model.layers.parameters())
    save(model, build_processor(tokenizer), tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_text_rows_have_no_image() -> None:
    """Rows of text alone carry no image and no mark of one."""
    row: CorpusRow = corpus_row(0, _first_with("text", seed=0))
    assert row.image is None
    assert all(IMAGE not in text for turn in row.turns for text in turn)


def _first_with(skill: str, seed: int = HELD_OUT_SEED) -> int:
    return next(index for index in range(1000) if corpus_row(seed, index).skill == skill)
