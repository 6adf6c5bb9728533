"""score on Ray Data equals plain loops; passes run once; every method of the paper runs on what it made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from raycurate.config import ClusterConfig, IngestConfig, ScoreConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.features.rows import features_of_table
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.cluster import cluster
from raycurate.stages.ingest import ingest
from raycurate.stages.score import score
from raycurate.stages.score_given import check_given
from raycurate.stages.select import select
from tests.nouns import read_all
from tests.tiny_clip import make_tiny_clip
from tests.tiny_vlms import SMALL_POOL as SETTINGS
from tests.tiny_vlms import make_tiny_vlm

ROWS = 60
GAIN = "tests.image_gain:ImageGain"
REFERENCE = {"reference_part": 0.4}
ALL = ("token_losses", "last_token", "mean_token", "clip")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random LLaVA on disk whose every word with a tilde is not a number."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    folder = make_tiny_vlm("llava", tmp_path_factory.mktemp("model"))
    network = AutoModelForImageTextToText.from_pretrained(folder)
    tilde = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("~")
    with torch.no_grad():
        network.get_input_embeddings().weight[tilde] = float("nan")
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A random CLIP on disk."""
    return str(make_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """60 rows in four shards over 15 images, every sixth of text alone, one that the model makes NaN of."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for i in range(15):
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    rows = []
    for i in range(ROWS):
        mark = "" if i % 6 == 0 else "<image>\n"
        question = "what ~ is it?" if i == 7 else f"what is it {i}?"
        turns = [{"from": "human", "value": mark + question}, {"from": "gpt", "value": f"a thing {i} " * (1 + i % 4)}]
        row = {"id": str(i), "conversations": turns, "task": f"t{i % 3}"}
        rows.append({**row, "image": f"{i % 15}.png"} if mark else row)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    made = Run(str(tmp_path_factory.mktemp("runs") / "run"))
    settings = {"source": str(folder / "rows.json"), "images": str(folder), "rows_per_shard": 16}
    ingest(made, make_config(IngestConfig, settings))
    (folder / "val.json").write_text(json.dumps([row for row in rows if int(row["id"]) % 10 == 1]), encoding="utf-8")
    ingest(made, make_config(IngestConfig, {**settings, "source": str(folder / "val.json"), "label": "val"}))
    return made


@pytest.fixture(scope="module")
def scored(ray_cluster, run, model, clip):
    """Every score, asked for in two calls."""
    first = score(run, make_config(ScoreConfig, {"scores": ALL[:2], "model": model, **SETTINGS}))
    second = score(run, make_config(ScoreConfig, {"scores": ALL, "model": model, "clip": clip, **SETTINGS}))
    return first, second


def reference(
    run: Run, model: str, names: tuple[str, ...] = ("last_token", "mean_token"), width: int = 0
) -> dict[str, dict]:
    """The same numbers and embeddings one row at a time, by key; with a width gradients too."""
    from raycurate.encoding.token_batches import AnswerPreparer
    from raycurate.features.gradient_sketches import GradientSketcher
    from raycurate.features.token_scores import TokenScorer
    from raycurate.models.adapter import load_vlm
    from raycurate.stages.workers.fragments import as_samples

    vlm = load_vlm(model, device="cpu", dtype="float32")
    gradients = GradientSketcher(vlm, width=width) if width else None
    scorer = TokenScorer(vlm, embeddings=names, gradients=gradients)
    preparer = AnswerPreparer(vlm.processor, max_length=4096, token_budget=600, max_rows=1)
    images = run.noun("samples").manifest().description["config"].get("images")
    found: dict[str, dict] = {}
    for part in run.noun("samples").iter_parts():
        samples = as_samples(part.to_pylist(), images)
        for blind in (False, True):
            for batch in preparer.prepare_answers(samples, blind=blind)[0]:
                columns = scorer.score(batch).columns
                row = found.setdefault(batch.keys[0], {})
                row |= {f"blind {n}" if blind else n: values[0] for n, values in columns.items()}
    return found


def test_the_stage_equals_rows_one_by_one(scored, run, model):
    """Losses, blind losses and embeddings are those of single rows; a NaN row is quarantined and counted."""
    expected = reference(run, model)
    bad = [key for key, row in expected.items() if np.isnan(row["loss"])]
    assert len(bad) == 1
    losses = read_all(run.noun("row_scores", "token_losses")).to_pylist()
    assert sorted(row["key"] for row in losses) == sorted(set(expected) - set(bad))
    for row in losses:
        plain = expected[row["key"]]
        for name in ("loss", "el2n", "aum", "answer_tokens"):
            assert row[name] == pytest.approx(plain[name], abs=1e-4), name
        blind = plain.get("blind loss")
        assert row["loss_blind"] == (None if blind is None else pytest.approx(blind, abs=1e-4))
    assert sum(row["loss_blind"] is None for row in losses) == ROWS // 6
    for name in ("last_token", "mean_token"):
        table = read_all(run.noun("features", name))
        rows_ND = features_of_table(table).astype(np.float64)
        plain_ND = np.stack([expected[key][name] for key in table["key"].to_pylist()]).astype(np.float64)
        assert np.abs(rows_ND - plain_ND).max() < 2e-3
        assert np.abs(np.linalg.norm(rows_ND, axis=1) - 1).max() < 1e-3
    for manifest in scored[1][:3]:
        assert manifest.quarantined == {"non_finite_score": 1}
        assert (manifest.rows_in, manifest.rows_out) == (ROWS, ROWS - 1)


def test_passes_run_once(scored, run, model, clip):
    """What was there was not made again; one pass made what was asked together; a third call does nothing."""
    first, second = scored
    assert [f"{m.noun}/{m.label}" for m in first] == ["row_scores/token_losses", "features/last_token"]
    assert second[:2] == first
    assert [f"{m.noun}/{m.label}" for m in second[2:]] == ["features/mean_token", "row_scores/clip", "features/clip"]
    assert first[0].metrics["shared_pass"] == first[1].metrics["shared_pass"]
    assert len({manifest.metrics["shared_pass"] for manifest in second}) == 3
    config = make_config(ScoreConfig, {"scores": ALL[::-1], "model": model, "clip": clip, **SETTINGS})
    again = score(run, config)
    assert {m.fingerprint: m.created for m in again} == {m.fingerprint: m.created for m in second}


def test_what_was_made_beside_a_noun_does_not_change_it(ray_cluster, scored, run, model):
    """An embedding alone, from a pool of two, equals the one that was made beside the losses, quarantine included."""
    settings = {**SETTINGS, "min_actors": 2, "max_actors": 2, "label": "alone"}
    (alone,) = score(run, make_config(ScoreConfig, {"scores": ["last_token"], "model": model, **settings}))
    assert alone.label == "alone-last_token"
    assert alone.quarantined == {"non_finite_score": 1}
    assert read_all(run.noun("features", "alone-last_token")).equals(read_all(run.noun("features", "last_token")))


def test_few_rows_are_scored_in_this_process_with_the_same_bits(ray_cluster, scored, run, model, monkeypatch):
    """Without a session: the scores of one pass, as the actors of a cluster made them."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a session was started"))
    settings = {"scores": ALL[:3], "model": model, **SETTINGS, "label": "here"}
    made = score(run, make_config(ScoreConfig, settings))
    assert [m.quarantined for m in made] == [{"non_finite_score": 1}] * 3
    assert all(m.estimated_seconds > 0 for m in made)
    for name in ALL[:3]:
        kind = "row_scores" if name == "token_losses" else "features"
        assert read_all(run.noun(kind, f"here-{name}")).equals(read_all(run.noun(kind, name)))


def test_embeddings_of_the_first_layer_keep_rows_of_text_alone(ray_cluster, run, model):
    """Those of single rows; a row without an image is zeros, one whose attention is NaN is lost; methods read them."""
    from raycurate.features.token_scores import LENGTH

    names = ("visual", "attended", "weighted_token")
    settings = {"scores": names, "model": model, "label": "early", "also": ["val"], **SETTINGS}
    visual, attended, weighted, *others = score(run, make_config(ScoreConfig, settings))
    assert [f"{other.label} {other.rows_out}" for other in others] == [f"val-{name} 6" for name in names]
    assert (visual.rows_out, attended.rows_out, weighted.rows_out) == (ROWS, ROWS - 1, ROWS - 1)
    expected = reference(run, model, names)
    for name in names:
        table = read_all(run.noun("features", f"early-{name}"))
        rows_ND = features_of_table(table).astype(np.float64)
        plain = [expected[key] for key in table["key"].to_pylist()]
        assert np.abs(rows_ND - np.stack([row[name] for row in plain])).max() < 2e-3
        assert (~rows_ND.any(axis=1)).sum() == (0 if name == "weighted_token" else ROWS // 6)
        if name == "attended":
            assert table["length"].to_pylist() == pytest.approx([row[LENGTH] for row in plain], rel=1e-3)
    reference_config = make_config(ScoreConfig, {"scores": ["reference"], "model": model, **REFERENCE, **SETTINGS})
    score(run, reference_config)
    for method, label in (("prism", 0), ("scalselect", 1), ("targeted", 2), ("presel", 0)):
        for envelope in (None, "0.5,2,0.3"):
            values = {"method": method, "features": f"early-{names[label]}", "ratio": 0.3, "envelope": envelope}
            chosen = select(run, make_config(SelectConfig, {**values, "label": method, "replace": True}))
            assert chosen.metrics["kept"] == round(0.3 * ROWS), method


def test_gradients_come_out_of_the_pass_of_the_losses(ray_cluster, scored, run, model):
    """Norms and sketches are those of single rows, from two actors; a NaN row is in neither; losses are as alone."""
    asked = {
        "scores": ("gradients", "token_losses"),
        "model": model,
        "gradient_width": 8,
        "label": "beside",
        **SETTINGS,
    }
    norms, sketches, losses = score(run, make_config(ScoreConfig, asked))
    assert len({manifest.metrics["shared_pass"] for manifest in (norms, sketches, losses)}) == 1
    assert [m.quarantined for m in (norms, sketches)] == [{"non_finite_score": 1}] * 2
    assert (sketches.metrics["dimension"], sketches.metrics["block_dim"]) == (64, 64)
    beside = read_all(run.noun("row_scores", "beside-token_losses"))
    assert beside.equals(read_all(run.noun("row_scores", "token_losses")))
    expected = reference(run, model, (), width=8)
    numbers = read_all(run.noun("row_scores", "beside-gradients")).to_pylist()
    assert len(numbers) == ROWS - 1
    for row in numbers:
        assert row["gradient_norm"] == pytest.approx(expected[row["key"]]["gradient_norm"], rel=1e-3)
    table = read_all(run.noun("features", "beside-gradients"))
    rows_ND = features_of_table(table).astype(np.float64)
    plain_ND = np.stack([expected[key]["gradient_sketch"] for key in table["key"].to_pylist()]).astype(np.float64)
    assert np.abs(rows_ND - plain_ND).max() < 2e-3
    with pytest.raises(UserError, match="gradient_layers.*--replace"):
        score(run, make_config(ScoreConfig, {**asked, "gradient_layers": "all"}))


def test_the_reference_is_a_part_of_each_task_with_and_without_its_questions(ray_cluster, run, model, tmp_path):
    """Losses and IRS of single rows; who was drawn; the weights of tasks, which `--task-weights` reads."""
    from raycurate.encoding.token_batches import AnswerPreparer, without_questions
    from raycurate.features.token_scores import TokenScorer
    from raycurate.models.adapter import load_vlm
    from raycurate.selection.keys import key_array, key_hashes
    from raycurate.stages.workers.fragments import as_samples

    settings = {"scores": ["reference"], "model": model, **REFERENCE, **SETTINGS}
    (manifest,) = score(run, make_config(ScoreConfig, settings))
    found = {row["key"]: row for row in read_all(run.noun("row_scores", "reference")).to_pylist()}
    assert (manifest.rows_in, manifest.rows_out) == (ROWS, ROWS - sum(manifest.quarantined.values()))
    vlm = load_vlm(model, device="cpu", dtype="float32")
    scorer = TokenScorer(vlm, embeddings=())
    preparer = AnswerPreparer(vlm.processor, max_length=4096, token_budget=600, max_rows=1)
    images = run.noun("samples").manifest().description["config"].get("images")
    samples = pa.concat_tables(run.noun("samples").iter_parts())
    hashes = key_hashes(key_array(samples["key"]), seed=0, purpose="draw")
    irs: dict[str, list[float]] = {}
    for task in ("t0", "t1", "t2"):
        own = [i for i, other in enumerate(samples["task"].to_pylist()) if other == task]
        drawn = sorted(own, key=lambda i: hashes[i])[:8]
        for i in own:
            sample = as_samples(samples.slice(i, 1).to_pylist(), images)[0]
            row = found.get(sample["key"])
            if i not in drawn or not sample["images"]:
                assert row == {**row, "reference": False, "loss": None, "loss_unasked": None, "irs": None}
                continue
            forms = (sample, without_questions(sample))
            plain = [scorer.score(preparer.prepare_answers([each])[0][0]).columns["loss"][0] for each in forms]
            if not np.isfinite(plain).all():
                assert row is None
                continue
            assert (row["reference"], row["loss"]) == (True, pytest.approx(plain[0], abs=1e-4))
            assert row["irs"] == pytest.approx(plain[0] / plain[1], abs=1e-4)
            irs.setdefault(task, []).append(row["irs"])
    weights = json.loads((Path(run.noun("row_scores", "reference").folder) / "weights.json").read_text("utf-8"))
    heat = np.exp([-np.sqrt(3) * np.mean(irs[task]) for task in sorted(irs)])
    assert list(weights["weights"].values()) == pytest.approx((heat / heat.sum()).tolist(), abs=1e-5)
    file = f"{run.noun('row_scores', 'reference').folder}/weights.json"
    assert score(run, make_config(ScoreConfig, settings)) == [manifest]
    with pytest.raises(UserError, match="reference_part 0.4 -> 0.1"):
        score(run, make_config(ScoreConfig, {**settings, "reference_part": 0.1}))
    values = {"method": "stratified", "task_weights": file, "task_power": 0.0, "ratio": 0.5, "label": "weighed"}
    select(run, make_config(SelectConfig, values))


def test_a_row_without_questions_shows_its_images_and_all_answers():
    """Marks of all images in one turn, answers that are trained on joined; what the system says stays."""
    from raycurate.encoding.token_batches import without_questions

    turns = [("system", "s"), ("user", "<image>\nwhat?"), ("assistant", "a cat"), ("user", "and <image> this?")]
    messages = [{"role": role, "text": text} for role, text in turns]
    messages += [{"role": "assistant", "text": "context", "train": False}, {"role": "user", "text": "so?"}]
    messages += [{"role": "assistant", "text": "two", "train": True}]
    bare = without_questions({"key": "k", "messages": messages, "images": [1, 2]})
    told = [(message["role"], message["text"]) for message in bare["messages"]]
    assert told == [("system", "s"), ("user", "<image><image>"), ("assistant", "a cat two")]
    assert bare["images"] == [1, 2]


def test_an_interrupted_pass_makes_only_what_is_missing(ray_cluster, scored, run, model):
    """A lost part of one noun is made again; parts of the other noun of the pass end up the same."""
    nouns = [run.noun("row_scores", "token_losses"), run.noun("features", "last_token")]
    before = [read_all(noun) for noun in nouns]
    kept = {shard: record.checksum for shard, record in nouns[1].records().items()}
    for noun in nouns:
        noun.filesystem.delete_file(f"{noun.folder}/manifest.json")
    nouns[1].filesystem.delete_file(nouns[1].part_path(2))
    score(run, make_config(ScoreConfig, {"scores": ALL[:2], "model": model, **SETTINGS}))
    assert all(noun_before.equals(read_all(noun)) for noun_before, noun in zip(before, nouns, strict=True))
    assert {shard: record.checksum for shard, record in nouns[1].records().items()} == kept


def test_clip_scores_are_null_without_an_image(scored, run):
    """Rows of text alone keep their place, without a score; embeddings are unit rows of twice the width."""
    table = read_all(run.noun("row_scores", "clip"))
    has_image = np.array(table["has_image"].to_pylist())
    assert has_image.sum() == ROWS - ROWS // 6
    assert np.array_equal(table["clip_score"].is_valid().to_numpy(), has_image)
    features_ND = features_of_table(read_all(run.noun("features", "clip"))).astype(np.float64)
    assert features_ND.shape == (ROWS, 32)
    assert np.abs(np.linalg.norm(features_ND, axis=1) - 1).max() < 1e-3


def test_every_method_runs_on_these_scores(ray_cluster, scored, run, tmp_path):
    """Clusters of the embeddings, given difficulties, then each method with its exact budget."""
    for label in ("last_token", "mean_token"):
        cluster(run, make_config(ClusterConfig, {"clusters": 4, "iterations": 5, "features": label, "label": label}))
    keys = [key for part in run.noun("samples").iter_parts(["key"]) for key in part["key"].to_pylist()]
    difficulty = [float("nan") if i == 3 else float(i % 7) for i in range(ROWS - 1)]
    table = pa.table({"key": [*keys[:-1], "of another run"], "difficulty": [*difficulty, 1.0]})
    asked = make_config(ScoreConfig, {"given": str(tmp_path / "given.parquet")})
    fingerprints = []
    for first in (9.0, difficulty[0]):  # another number, with the file's size and time as they were
        column = pa.array([first, *difficulty[1:], 1.0])
        pq.write_table(table.set_column(1, "difficulty", column), asked.given, use_dictionary=False, compression="none")
        os.utime(asked.given, ns=(1, 1))
        (given,) = score(run, asked)
        fingerprints.append(given.fingerprint)
    assert len(set(fingerprints)) == 2
    os.utime(asked.given)
    assert score(run, asked) == [given], "a touched file is the same"
    assert given.quarantined == {"non_finite_score": 1, "not_given": 1}
    assert given.metrics == {"given": ROWS, "unknown_keys": 1}
    methods = ("clip_score", "el2n", "perplexity", "semdedup", "d2_pruning", "self_sup", "self_filter")
    # A method of the user's kind: rows without a number take no part, even where all are asked for.
    gain = select(run, make_config(SelectConfig, {"method": GAIN, "ratio": 1.0, "label": "gain"}))
    assert gain.metrics["kept"] == ROWS - 1 - ROWS // 6
    assert gain.metrics["reasons"]["no_score"] == 1 + ROWS // 6
    for method in methods:
        options = {"difficulty": "given"} if method == "self_filter" else {}
        values = {"method": method, "ratio": 0.2, "label": method, "options": options}
        manifest = select(run, make_config(SelectConfig, values))
        assert manifest.metrics["kept"] == round(0.2 * ROWS), method


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"key": ["a", "b", "a"], "difficulty": [1.0, 2.0, 3.0]}, "has 1 keys more than once, 'a' 2 times"),
        ({"key": ["a"], "difficulty": ["1"]}, "the column difficulty of .* is string, not a number"),
        ({"key": [1], "difficulty": [1.0]}, "the column key of .* is int64, not text"),
        ({"key": ["a"], "score": [1.0]}, "has the columns key, score; give"),
        (None, "cannot be read as Parquet"),
    ],
)
def test_given_numbers_that_cannot_be_used_are_named(tmp_path, table, told):
    """Which number counts, what a number is and where it stands are not guessed; a CSV is no Parquet file."""
    path = tmp_path / "given.parquet"
    if table is None:
        path.write_text("key,difficulty\na,1\n")
    else:
        pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=told):
        check_given(str(path))


def test_what_cannot_be_scored_is_one_message(ray_cluster, run, tmp_path):
    """`clip` without a model names one; wrong paths and files without the columns say so before any actor starts."""
    with pytest.raises(UserError, match="give --clip openai/clip-vit-large-patch14-336, or --clip and a local folder"):
        score(run, make_config(ScoreConfig, {"scores": ["clip"]}))
    with pytest.raises(UserError, match="cannot load the CLIP model"):
        score(run, make_config(ScoreConfig, {"scores": ["clip"], "clip": str(tmp_path / "none")}))
    with pytest.raises(UserError, match="there is no file"):
        score(run, make_config(ScoreConfig, {"given": str(tmp_path / "none.parquet")}))
    pq.write_table(pa.table({"id": [1]}), tmp_path / "wrong.parquet")
    with pytest.raises(UserError, match="has the columns id; give a Parquet file with the columns key"):
        score(run, make_config(ScoreConfig, {"given": str(tmp_path / "wrong.parquet")}))
    with pytest.raises(UserError, match="scores"):
        make_config(ScoreConfig, {"scores": ["clipp"]})
