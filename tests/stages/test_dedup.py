"""Copies are marked, one row of each group stays, and neither shards, order nor a kill changes which."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from raycurate.cleaning.config import DedupConfig
from raycurate.cli.main import main
from raycurate.errors import UserError
from raycurate.settings import make_config
from raycurate.stages import dedup as stage
from raycurate.stages.cleaning import passes
from raycurate.stages.dedup import dedup
from raycurate.stages.engine import shards
from tests.cleaning.cleaning_runs import GROUPS, TRAIN, ingested, marks_of, write_source
from tests.drivers import kill_at_commit
from tests.nouns import read_all, write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case, unit_features


def marked(run, **settings):
    dedup(run, make_config(DedupConfig, settings))
    return marks_of(run, settings.get("label", "dedup"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    run = ingested(source, tmp_path_factory.mktemp("run") / "run")
    dedup(run, make_config(DedupConfig, {}))
    return run


def test_each_group_keeps_its_first_key(run):
    """Every planted group is found, what contradicts or only resembles it is not, and the first key stays."""
    found = marks_of(run, "dedup")
    assert len(found) == len(TRAIN)
    grouped = {name for group in GROUPS for name in group}
    assert {name for name, row in found.items() if row["group"] is None} == set(found) - grouped
    for group in GROUPS:
        first = min(found[name]["key"] for name in group)
        stays = [name for name in group if found[name]["reason"] is None]
        assert [found[name]["key"] for name in stays] == [first]
        for name in group - set(stays):
            assert found[name]["like"] == found[name]["group"] == first
            assert found[name]["like_source_id"] == stays[0]
            assert 0.5 < found[name]["similarity"] <= 1.0


def test_reasons_follow_the_passes(run):
    """The first pass in which a row is a copy says why."""
    found = marks_of(run, "dedup")
    reasons = {name: {found[each]["reason"] for each in group} for name, group in zip("abcd", GROUPS, strict=True)}
    assert reasons["a"] == {None, "exact_copy", "near_image"}
    assert reasons["b"] == {None, "near_text"}
    assert reasons["c"] == {None, "exact_copy"}
    assert reasons["d"] == {None, "exact_copy", "near_text"}


def test_shards_order_and_buckets_change_nothing(run, source, tmp_path, monkeypatch):
    """The same rows in another order, in one shard or many, in one bucket or many, give the same marks."""
    monkeypatch.setattr(stage, "PRINT_BYTES", 1 << 18)
    (tmp_path / "turned").mkdir()
    turned = write_source(tmp_path / "turned", TRAIN[::-1])
    for number, (folder, shard) in enumerate(((source, 100), (turned, 2))):
        again = ingested(folder, tmp_path / str(number), rows_per_shard=shard)
        assert marked(again, bucket_mb=1) == marks_of(run, "dedup")


@pytest.mark.parametrize("step", ["exact-rows", "image-words", "words1-words"])
def test_a_step_that_died_is_made_again_and_no_other(run, source, tmp_path, monkeypatch, step):
    """After an error in the middle the rerun keeps what was done, and the marks are those of a calm run."""
    again = ingested(source, tmp_path / "run")
    done: list[str] = []
    whole = passes.resumable_steps

    def steps(noun, name, make, *rest, **more):
        def counted(number, *values):
            if name == step and number == 0 and "died" not in done:
                done.append("died")
                raise OSError("gone")
            done.append(f"{name}/{number}")
            return make(number, *values)

        return whole(noun, name, counted, *rest, **more)

    monkeypatch.setattr(passes, "resumable_steps", steps)
    monkeypatch.setattr(shards, "map_tasks", shards.map_here)  # so that this process sees what is done
    with pytest.raises(OSError, match="gone"):
        marked(again)
    before = set(done)
    assert marked(again) == marks_of(run, "dedup")
    assert len(done) == len(set(done))
    assert before < set(done)


def test_a_second_call_finds_everything_done(run):
    """The same settings do nothing; others make the marks again from the same prints."""
    first = run.noun("marks", "dedup").require("x")
    prints = run.noun("prints").require("x")
    assert dedup(run, make_config(DedupConfig, {"threads": 2})).created == first.created
    other = dedup(run, make_config(DedupConfig, {"distance": 0, "words": 1.0, "label": "strict"}))
    assert run.noun("prints").require("x").created == prints.created
    assert "near_text" not in other.metrics["reasons"]
    assert other.metrics["reasons"]["exact_copy"] == first.metrics["reasons"]["exact_copy"] == 3
    assert other.metrics["marked"] < first.metrics["marked"]


def test_the_command_shows_reasons_with_two_examples(run):
    """Counts add up, examples name rows of the source."""
    output = CliRunner().invoke(main, ["--quiet", "dedup", run.uri]).output
    assert "exact_copy" in output
    assert "near_image" in output
    summary = run.noun("marks", "dedup").read_json("summary.json")
    assert sum(summary["reasons"].values()) == sum(len(group) - 1 for group in GROUPS)
    assert all(1 <= len(rows) <= 2 for rows in summary["examples"].values())
    for rows in summary["examples"].values():
        assert all(row["source_id"] in output for row in rows)


def test_a_picture_that_is_gone_leaves_its_rows_unmarked(source, tmp_path):
    """Nothing can be said of them: they are quarantined among the prints, with the reason."""
    rows = [row for row in TRAIN if row["id"] in ("a1", "a2", "a3", "c1", "c2")]
    folder = tmp_path / "source"
    folder.mkdir()
    run = ingested(write_source(folder, rows), tmp_path / "run")
    (folder / "4.png").unlink()
    found = marked(run, max_rejected=1)
    assert [found[name]["reason"] for name in ("c1", "c2")] == [None, None]
    assert run.noun("prints").require("x").quarantined == {"image_missing": 2}
    assert sum(row["reason"] is not None for row in found.values()) == 2


def _copied_features(rows=40, clusters=4):
    """A clustered case, some of whose rows nearly repeat an earlier one of their cluster."""
    case = clustered_case(3, rows=rows, clusters=clusters)
    rng = np.random.default_rng(0)
    features = case.features.copy()
    for row in range(8, rows, 3):
        same = np.flatnonzero(case.labels[:row] == case.labels[row])
        if same.size:
            features[row] = features[rng.choice(same)] + np.float16(0.002) * unit_features(1, features.shape[1], row)
    return case, features


def _features_run(folder, shards):
    from raycurate.run.store import Run

    case, features = _copied_features()
    run = Run(str(folder))
    write_samples(run, case.keys, ["t"] * len(case.keys), shards=shards)
    write_features(run, case.keys, features, shards=shards, block_dim=case.block_dim)
    write_clusters(run, case.keys, features, case.labels, case.centroids, shards=shards)
    return run, case, features


def _naive_by_features(case, features, bound):
    """Key of the row that stands for each row that goes, by a loop over pairs."""
    order = np.argsort(case.keys)
    wide = features.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    like: dict[str, str] = {}
    for place, row in enumerate(order):
        for other in order[:place]:
            near = case.labels[row] == case.labels[other] and wide[row] @ wide[other] >= bound
            if near and case.keys[other] not in like:
                like[case.keys[row]] = case.keys[other]
                break
    return like


def test_features_of_a_cluster_as_a_loop_over_pairs(ray_cluster, tmp_path, monkeypatch):
    """Rows of a cluster above the cosine; texts, which are all the same here, are left out."""
    monkeypatch.setattr(stage, "_passes", lambda prints, config: [])
    for number, count in enumerate((1, 3)):
        run, case, features = _features_run(tmp_path / str(number), count)
        manifest = dedup(run, make_config(DedupConfig, {"clusters": "main", "cosine": 0.99}))
        table = read_all(run.noun("marks", "dedup")).to_pylist()
        expected = _naive_by_features(case, features, 0.99)
        assert {row["key"]: row["like"] for row in table if row["reason"]} == expected
        assert len(expected) >= 5
        counted = manifest.metrics["rows_by_cosine"]
        assert list(counted.values()) == sorted(counted.values(), reverse=True)
        assert counted["0.99"] >= len(expected)


def test_rows_that_stood_for_others_and_went_hand_them_on(ray_cluster, tmp_path, monkeypatch):
    """A row whose copy goes in a later pass is stood for by the row that stays to the end."""
    words = {"exact": {"b": "a", "d": "c"}, "later": {"c": "a"}, "last": {}}

    def one(name):
        import pyarrow as pa

        from raycurate.cleaning.copies import Copies

        def rows(shard):
            keys = ["a", "b", "c", "d", "e"]
            return pa.table({"key": keys, "source_id": keys, "group": pa.array([0] * 5, pa.uint64())})

        def copies(group):
            keys = group["key"].to_pylist()
            like = [keys.index(words[name][key]) if key in words[name] else -1 for key in keys]
            return Copies(np.array(like), np.where(np.array(like) >= 0, 0.9, np.nan))

        return passes.Pass(name, name, rows, copies)

    from raycurate.run.store import Run

    noun = Run(str(tmp_path)).noun("marks")
    made = [one(name) for name in words]
    for place, each in enumerate(made):
        passes.run_pass(noun, each, made[:place], shards=1, buckets=2, max_tasks=2)
    keys = made[0].rows(0).select(["key", "source_id"])
    table = passes.final_marks(noun, list(words), 2, 0, keys).to_pylist()
    assert [row["like"] for row in table] == [None, "a", "a", "a", None]
    assert [row["reason"] for row in table] == [None, "exact", "later", "exact", None]
    assert [row["group"] for row in table] == ["a", "a", "a", "a", None]


def test_wrong_clusters_are_an_error_before_any_work(tmp_path, source, ray_cluster):
    """Clusters that are not there are named with the command that makes them."""
    run = ingested(source, tmp_path / "run")
    with pytest.raises(UserError, match="no finished 'clusters/main'"):
        dedup(run, make_config(DedupConfig, {"clusters": "main"}))
    assert not run.noun("prints").manifest()


def test_settings_are_in_the_fingerprint(run):
    """What determines the marks is in their description."""
    description = run.noun("marks", "dedup").require("x").description
    assert description["config"]["distance"] == 8
    assert set(description["made_from"]) == {"samples/main", "prints/main"}
    assert json.dumps(description)


@pytest.mark.slow
def test_a_kill_while_groups_are_compared_does_not_change_the_answer(source, run, tmp_path, monkeypatch):
    """kill -9 of the command in a pass, the same line again: no part of it is made twice, the marks of a calm run."""
    again = ingested(source, tmp_path / "run", rows_per_shard=1)
    work = tmp_path / "run" / "marks" / "dedup" / "work" / "image-rows"
    kill_at_commit("*/work/image-rows/*.json", 2, "dedup", again.uri)
    assert again.noun("marks", "dedup").manifest() is None
    left = {path: path.stat().st_mtime_ns for path in work.glob("*.json")}
    assert len(left) == 2
    monkeypatch.setattr(stage, "delete_folder", lambda *_: None)
    dedup(again, make_config(DedupConfig, {}))
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert len(list(work.glob("*.json"))) == again.noun("samples").require("ingest").shards > 2
    assert marks_of(again, "dedup") == marks_of(run, "dedup")
