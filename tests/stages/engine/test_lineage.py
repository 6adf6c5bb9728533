"""A noun is current at every step up to the samples, or it is refused; and what took long is not replaced unasked."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys

import numpy as np
import pyarrow as pa
import pytest

from raycurate.config import ClusterConfig, ExportConfig, ExtractConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.sweep import GRID
from raycurate.recipe import Recipe
from raycurate.run.store import Noun, Run
from raycurate.settings import make_config
from raycurate.stages import select as select_stage
from raycurate.stages.engine.lineage import (
    CHEAP,
    begin,
    changes,
    keep_table,
    required,
    why_stale,
)
from raycurate.stages.engine.shards import describe, map_here
from raycurate.stages.engine.status import status
from raycurate.stages.export import export
from raycurate.stages.select import select
from raycurate.stages.table import STAGES
from tests.nouns import write_features, write_samples

KEYS = [f"{i:032x}-0" for i in range(24)]
CHAIN = ("features", "clusters", "ranking", "selection", "models", "scores", "scoreboard")
STAGE_OF = {
    "features": "extract",
    "clusters": "cluster",
    "ranking": "rank",
    "selection": "select",
    "models": "finetune",
    "scores": "evaluate",
    "scoreboard": "compare",
}


def _raise_version(monkeypatch, stage: str) -> None:
    monkeypatch.setitem(STAGES, stage, dataclasses.replace(STAGES[stage], version=STAGES[stage].version + 1))


def _made(noun: Noun, description: dict) -> Noun:
    noun.begin(description)
    noun.finish()
    return noun


@pytest.fixture
def run(tmp_path) -> Run:
    """Samples, and every later noun made from the one before it, by the present versions of their stages."""
    run = Run(str(tmp_path / "run"))
    before = write_samples(run, KEYS, ["a", "b"] * 12, shards=2)
    for name in CHAIN:
        stage = STAGE_OF[name]
        read = [before.require("x")]
        description = describe(stage, make_config(SelectConfig, {}), {}, read)
        before = _made(run.noun(name), description)
    return run


def test_every_row_of_the_table_can_be_loaded():
    """The table of stages names functions and settings that are there."""
    assert all(callable(stage.load()) and stage.load_config() for stage in STAGES.values() if stage.function)


def test_a_chain_of_current_nouns_is_current(run):
    assert all(required(run.noun(name)) for name in CHAIN)
    assert {line.state for line in status(run)} == {"done"}


@pytest.mark.parametrize("name", CHAIN)
def test_other_samples_make_all_that_follows_stale(run, name):
    """One row less: every noun is refused, with the commands in the order in which they make it right again."""
    write_samples(run, KEYS[:-1], (["a", "b"] * 12)[:-1], shards=2)
    with pytest.raises(UserError, match="'features/main' was made from an earlier 'samples/main'") as refused:
        required(run.noun(name))
    commands = [f"`raycurate {STAGE_OF[each]}" for each in CHAIN[: CHAIN.index(name) + 1]]
    places = [str(refused.value).index(command) for command in commands]
    assert places == sorted(places)
    line = next(line for line in status(run) if line.name == f"{name}/main")
    assert line.state == "stale"
    assert "samples/main" in line.why


@pytest.mark.parametrize("changed", CHAIN)
def test_another_version_of_a_stage_makes_its_noun_and_all_that_follows_stale(run, changed, monkeypatch):
    _raise_version(monkeypatch, STAGE_OF[changed])
    place = CHAIN.index(changed)
    assert all(required(run.noun(name)) for name in CHAIN[:place])
    for name in CHAIN[place:]:
        with pytest.raises(UserError, match=f"'{changed}/main' was made by an earlier version of"):
            required(run.noun(name))


def test_a_setting_of_an_earlier_stage_makes_what_follows_stale(run):
    """Clusters with another K: the ranking is out of date, the features are not; another label touches nothing."""
    read = [run.noun("features").require("x")]
    other = describe("cluster", make_config(ClusterConfig, {"clusters": 3}), {}, read)
    _made(run.noun("clusters", "other"), other)
    assert required(run.noun("scoreboard"))
    _made(run.noun("clusters"), other)
    assert required(run.noun("features"))
    with pytest.raises(UserError, match="'ranking/main' was made from an earlier 'clusters/main', which has changed"):
        required(run.noun("selection"))


def test_a_noun_that_is_being_made_anew_makes_what_follows_stale_and_a_deleted_one_does_not(run):
    """Features that somebody removed to save space leave the clusters as they are."""
    run.noun("features").clear()
    assert required(run.noun("clusters"))
    run.noun("features").begin({"stage": "extract", "other": 1})
    with pytest.raises(UserError, match="is being made anew"):
        required(run.noun("clusters"))


def test_a_noun_of_other_samples_is_refused(run):
    """Current, but made from another label."""
    with pytest.raises(UserError, match=r"'clusters/main' was made from 'samples/main', and 'samples/test' is asked"):
        required(run.noun("clusters"), of=dataclasses.replace(run.noun("samples").require("x"), label="test"))


def test_an_old_selection_is_not_exported(tmp_path):
    """Samples that were read again, into another number of shards as well: a clear error, no assertion."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, KEYS, ["a", "b"] * 12, shards=2)
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 0.5}), map_here)
    config = make_config(ExportConfig, {"out": str(tmp_path / "out.json")})
    export(run, config)
    assert len(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))) == 12
    write_samples(run, KEYS[:-1], (["a", "b"] * 12)[:-1], shards=1)
    with pytest.raises(UserError, match=r"'selection/main' was made from an earlier 'samples/main'.*raycurate select"):
        export(run, config)


def test_select_ranks_again_after_the_code_of_the_ranking_changed(run, monkeypatch):
    """A ranking of an earlier version is made again, not read."""
    asked = []
    monkeypatch.setattr(select_stage, "rank", lambda _run, config: asked.append(config.label))
    config = make_config(SelectConfig, {"method": "coincide"})
    selector = select_stage.build_selector(config.method, config.options)
    sources = select_stage.Sources(
        features=run.noun("features"), clusters=run.noun("clusters"), ranking=run.noun("ranking")
    )
    select_stage._rank_if_stale(run, config, selector, sources)
    assert asked == []
    _raise_version(monkeypatch, "rank")
    select_stage._rank_if_stale(run, config, selector, sources)
    assert asked == ["main"]


def test_one_byte_of_a_users_own_method_has_its_selection_made_again(tmp_path, monkeypatch):
    """The file in which it is written is part of what determines a selection; another file is not."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, KEYS, ["a", "b"] * 12, shards=2)
    file = tmp_path / "own_draw.py"
    file.write_text("from raycurate.selection.methods.random import Random\n\n\nclass Own(Random):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(SelectConfig, {"method": "own_draw:Own", "ratio": 0.5})
    first = select(run, config, map_here)
    (tmp_path / "other.py").write_text("x = 1")
    assert select(run, config, map_here) == first
    file.write_text(file.read_text() + "# another\n")
    with pytest.raises(UserError, match=r"own_draw.py was changed after this process imported 'own_draw'"):
        select(run, config, map_here)
    sys.modules.pop("own_draw")  # as another process has it
    again = select(run, config, map_here)
    assert again.fingerprint != first.fingerprint
    assert select(run, config, map_here) == again


# replacing


def _extracted(run: Run, **settings) -> tuple[Noun, dict]:
    read = [run.noun("samples").require("x")]
    config = make_config(ExtractConfig, settings)
    return run.noun("features"), describe("extract", config, {"model": "a"}, read)


@pytest.fixture
def features(run) -> Noun:
    """Finished features of the model X."""
    noun, description = _extracted(run, model="X")
    noun.clear()
    noun.begin(description)
    noun.commit_part(0, pa.table({"key": KEYS}), rows_in=len(KEYS))
    noun.add_seconds(75.0)
    noun.finish()
    return noun


def test_a_forgotten_option_does_not_delete_what_took_long(run, features):
    """The error says what is there and how to go on; nothing is lost by it."""
    noun, description = _extracted(run)
    with pytest.raises(UserError) as refused:
        begin(noun, description)
    told = str(refused.value)
    for part in (
        "'features/main'",
        "model X -> tiny",
        "24 rows",
        "75.0 s",
        "--label NAME",
        "--replace",
        "replace=true",
    ):
        assert part in told, part
    assert features.require("x").rows_out == 24
    begin(noun, description, replace=True)
    assert noun.manifest() is None


def test_seconds_that_nothing_took_are_not_told(run):
    noun = _made(run.noun("features"), {"stage": "extract", "config": {"model": "X"}})
    with pytest.raises(UserError, match=r"model X -> tiny\. It is from "):
        begin(noun, {"stage": "extract", "config": {"model": "tiny"}})


def test_settings_of_the_execution_are_no_other_settings(run, features):
    noun, description = _extracted(run, model="X", threads=4, max_actors=2, batch_rows=256)
    assert changes(noun, description) == []
    assert noun.is_done(description)


def test_changed_inputs_have_it_made_again_with_a_line(run, features, caplog):
    """Other files of the model, or other samples: no question, but it is said."""
    noun, description = _extracted(run, model="X")
    with caplog.at_level(logging.INFO, "raycurate"):
        begin(noun, {**description, "inputs": {"model": "b"}})
    assert noun.manifest() is None
    assert "features/main: made again: the files of the model have changed" in caplog.text


def test_features_that_lost_a_part_are_refused_and_what_is_left_is_kept(run, features, caplog):
    """A reader says which part is gone and what makes it; that stage goes on with a line; `status` shows it."""
    noun, description = _extracted(run, model="X")
    noun.filesystem.delete_file(noun.part_path(0))
    with pytest.raises(UserError, match=r"is not whole: 1 of its files is gone .*part-00000.*`raycurate extract "):
        required(noun)
    assert next(line.state for line in status(run) if line.name == "features/main") == "stale"
    with caplog.at_level(logging.INFO, "raycurate"):
        begin(noun, description)
    assert "features/main: made again: 1 of its files is gone" in caplog.text
    assert noun.missing(1) == [0]
    noun.commit_part(0, pa.table({"key": KEYS}), rows_in=len(KEYS))
    noun.finish()
    assert required(noun)


def test_little_work_may_go_and_much_may_not(run):
    """An unfinished noun with other settings: below a minute it is started anew."""
    noun, description = _extracted(run, model="X")
    noun.clear()
    for seconds, refused in ((30.0, False), (90.0, True)):
        noun.begin(description)
        noun.add_seconds(seconds)
        if refused:
            with pytest.raises(UserError, match="not finished"):
                begin(noun, _extracted(run)[1])
        else:
            begin(noun, _extracted(run)[1])


def test_a_selection_is_replaced_with_a_line(tmp_path, caplog):
    """It takes moments, so it is not asked for."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, KEYS, ["a", "b"] * 12, shards=2)
    with caplog.at_level(logging.INFO, "raycurate"):
        for ratio in (0.5, 0.25):
            made = select(run, make_config(SelectConfig, {"method": "random", "ratio": ratio}), map_here)
    assert made.metrics["kept"] == 6
    assert "selection/main: replaced: ratio 0.5 -> 0.25" in caplog.text
    assert "selection" in CHEAP


def test_a_recipe_replaces_in_all_its_sections():
    """`replace: true` at its head; a section that says otherwise stays as it is."""
    values = {"run": "r", "replace": True, "ingest": {"source": "x.json"}, "cluster": {"clusters": 2}, "extract": {}}
    recipe = make_config(Recipe, {**values, "more_clusters": [{"clusters": 3, "label": "b", "replace": False}]})
    assert (recipe.ingest.replace, recipe.cluster.replace, recipe.extract.replace) == (True, True, True)
    assert not recipe.more_clusters[0].replace
    assert not make_config(Recipe, {**values, "replace": False}).ingest.replace


def test_a_result_that_says_the_same_keeps_its_date(run):
    """A table that was written again from results that were there is not a new one."""
    noun = run.noun("sweeps")
    noun.begin({"stage": "sweep"})
    first = noun.finish(metrics={"trials": 1})
    noun.write_json("manifest.json", {**dataclasses.asdict(first), "created": "2026-01-02T03:04:05Z"})
    assert noun.finish(metrics={"trials": 1}).created == "2026-01-02T03:04:05Z"
    assert noun.finish(metrics={"trials": 2}).created != "2026-01-02T03:04:05Z"


def test_old_descriptions_are_read_by_their_inputs(tmp_path):
    """Without `made_from` the label of the settings counts."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, KEYS, ["a", "b"] * 12)
    noun = write_features(run, KEYS, np.eye(24, 8, dtype=np.float16))
    assert why_stale(noun, noun.require("x")) is None
    write_samples(run, KEYS[:-1], (["a", "b"] * 12)[:-1])
    assert why_stale(noun, noun.require("x")) is not None


def test_another_sweep_under_one_label_does_not_write_over_the_table_of_the_first(run):
    """A larger grid holds the first one's lines and goes on; other ratios, or another model, ask."""
    noun = run.noun("sweeps")
    first = make_config(SweepConfig, {"methods": ["random"], "ratios": [0.1, 0.2]})
    noun.begin({"stage": "sweep"})
    noun.finish(metrics={"trials": 2, "config": first.determining()})
    keep_table(noun, first, GRID)
    keep_table(noun, first.model_copy(update={"ratios": (0.1, 0.2, 0.4), "max_concurrent": 2}), GRID)
    with pytest.raises(
        UserError, match=r"'sweeps/main' is there with other settings: ratios .*; its tables .*--label NAME"
    ):
        keep_table(noun, first.model_copy(update={"ratios": (0.4,)}), GRID)
    with pytest.raises(UserError, match="finetune"):
        keep_table(noun, first.model_copy(update={"finetune": {"model": "X"}}), GRID)
    keep_table(noun, first.model_copy(update={"ratios": (0.4,), "replace": True}), GRID)


def test_a_bound_may_rise_over_a_finished_table_and_not_fall(run):
    """None is the highest bound; a number that is lower, or one instead of none, would lose lines."""
    noun = run.noun("sweeps")
    first = make_config(SweepConfig, {"methods": ["random"], "full_seeds": 2})
    noun.begin({"stage": "sweep"})
    noun.finish(metrics={"trials": 2, "config": first.determining()})
    for rises in (2, 3, None):
        keep_table(noun, first.model_copy(update={"full_seeds": rises}), GRID)
    with pytest.raises(UserError, match="full_seeds 2 -> 1"):
        keep_table(noun, first.model_copy(update={"full_seeds": 1}), GRID)
    noun.begin({"stage": "sweep"})
    noun.finish(metrics={"trials": 2, "config": first.model_copy(update={"full_seeds": None}).determining()})
    with pytest.raises(UserError, match="full_seeds"):
        keep_table(noun, first, GRID)
