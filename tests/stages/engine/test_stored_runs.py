"""Run directories of other commits: what today's code finds finished, and what it makes again and why."""

from __future__ import annotations

import dataclasses
import logging

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from raycurate.pipeline import run_recipe
from raycurate.recipe import Recipe
from raycurate.run.store import Run
from raycurate.stages.engine import source_check
from raycurate.stages.engine.lineage import changed_settings
from raycurate.stages.engine.status import status
from tests import stored_run

NOUNS = {
    "samples/main",
    "samples/test",
    "features/main",
    "features/mean_token",
    "row_scores/token_losses",
    "clusters/main",
    "ranking/main",
    "selection/main",
    "selection/random-s0",
    "models/main",
    "models/random-s0",
    "predictions/main",
    "predictions/random-s0",
    "scores/main",
    "scores/random-s0",
    "scoreboard/main",
}
"""Beside the tokens, whose labels are hashes."""


@pytest.fixture
def lay(s3, monkeypatch):
    """Puts a stored run on the object store; its run directory.

    An object store sets the times of its files itself, and the source is known by them there: it keeps the noted ones.
    """

    def lay(name: str) -> Run:
        filesystem, _ = pafs.FileSystem.from_uri(stored_run.URI)
        filesystem.create_dir(stored_run.FOLDER)
        filesystem.delete_dir_contents(stored_run.FOLDER)
        stored_run.put(name, filesystem)
        run = Run(f"{stored_run.URI}/run")
        noted = {
            **source_check.noted_states(run.noun("samples")),
            **source_check.noted_states(run.noun("samples", "test")),
        }

        def with_noted_time(uri: str) -> source_check.FileState:
            now = look_at(uri)
            return dataclasses.replace(now, changed=noted[uri].changed) if uri in noted else now

        monkeypatch.setattr(source_check, "look_at", with_noted_time)
        return run

    look_at = source_check.look_at
    return lay


def _parts_and_manifests() -> dict[str, bytes]:
    """What was made, without the notes of the times that image files have."""
    filesystem, _ = pafs.FileSystem.from_uri(stored_run.URI)
    kept = (".parquet", ".safetensors", "/manifest.json", "/scores.json", "/lines.json", "/scoreboard.md")
    found = stored_run.files(filesystem)
    return {name: data for name, data in found.items() if name.endswith(kept) and "/seen/" not in name}


def _keys(run: Run, noun: str, column: str = "key") -> list:
    return pa.concat_tables(run.noun(noun).iter_parts(["key", column])).sort_by("key")[column].to_pylist()


def test_every_noun_of_a_run_of_before_is_found_done(lay, ray_cluster, caplog):
    """The recipe that made it, run again: no part, model, score or manifest is written, and nothing is made again."""
    run = lay("run_done")
    lines = {line.name: line for line in status(run)}
    assert {name for name in lines if not name.startswith("tokens/")} == NOUNS
    assert {line.name: line.why for line in lines.values() if line.state != "done"} == {}
    before = _parts_and_manifests()
    with caplog.at_level(logging.INFO, logger="raycurate"):
        run_recipe(Recipe.model_validate(stored_run.recipe()))
    assert [text for text in caplog.messages if "made again" in text or "replaced" in text] == []
    after = _parts_and_manifests()
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == set()


@pytest.mark.slow
def test_a_run_whose_rows_were_judged_otherwise_is_made_again_without_being_asked(lay, ray_cluster):
    """Made before `ingest` refused what it does not read: all of it is stale, with the reason, and then made anew.

    Its settings are the same, so nobody has to say that the new replaces the old; the same rows are kept. Scores, whose
    old description names no model, are not taken for those of another one.
    """
    run = lay("run_stale")
    lines = {line.name: line for line in status(run)}
    assert {name for name in lines if not name.startswith("tokens/")} == NOUNS
    stale = {name: line.why for name, line in lines.items() if line.state == "stale"}
    assert NOUNS - stale.keys() == {"scoreboard/main"}  # it did not say what it was made from
    assert "'samples/main' was made by an earlier version of `ingest` (1, now 3)" in stale["selection/main"]
    scores = run.noun("row_scores", "token_losses")
    asked = {"config": {**scores.require("score").description["config"], "model": "tiny"}, "made_from": {}}
    assert changed_settings(scores, asked) == []
    other = {**asked, "config": {**asked["config"], "max_length": 7}}
    assert changed_settings(scores, other) == ["max_length 4096 -> 7"]
    keys, kept = _keys(run, "samples"), _keys(run, "selection", "kept")
    recipe = Recipe.model_validate(stored_run.recipe())
    made = run_recipe(recipe, sections=("ingest", "extract", "cluster", "rank", "select"))
    assert {f"{each.noun}/{each.label}" for each in made} < NOUNS
    states = {line.name: line.state for line in status(run)}
    assert {states[f"{each.noun}/{each.label}"] for each in made} == {"done"}
    assert _keys(run, "samples") == keys
    assert _keys(run, "selection", "kept") == kept
