"""A choice on a cluster: real trainings, a gate that keeps the champion without proof, and `select` that follows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raycurate.config import RankConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.experiments.choose import choose
from raycurate.experiments.engine.choose_config import ChooseConfig
from raycurate.pipeline import steps_of
from raycurate.recipe import Recipe, load_recipe
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import why_stale
from raycurate.stages.rank import rank
from raycurate.stages.select import select
from raycurate.stages.selecting.auto import settled
from tests.nouns import read_all, write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case, sample_keys

ROWS = 120
TRAINING = {"method": "full", "max_steps": 1, "batch_rows": 4, "cpus_per_worker": 0.5, "threads": 1}
VALUES = {
    "methods": ["root"],
    "variants": {"root": {"method": "stratified", "task_power": 0.5}},
    "rows": 8,
    "data": "val",
    "finetune": TRAINING,
    "evaluate": {"max_rows": 24, "max_new_tokens": 2, "cpus_per_actor": 0.5},
}


@pytest.fixture(scope="module")
def made(ray_cluster, tmp_path_factory) -> Path:
    """A run with 120 rows of seven tasks, clustered and ranked."""
    folder = tmp_path_factory.mktemp("made") / "run"
    run, case = Run(str(folder)), clustered_case(3, rows=ROWS, clusters=8)
    write_samples(run, case.keys, [f"task {min(i % 10, 6)}" for i in range(ROWS)], shards=2)
    write_features(run, case.keys, case.features, shards=2, block_dim=case.block_dim)
    write_clusters(run, case.keys, case.features, case.labels, case.centroids, shards=2)
    write_samples(run, sample_keys(24, 9), [f"task {min(i, 1)}" for i in range(24)], shards=2, label="val")
    rank(run, make_config(RankConfig, {}))
    return folder


@pytest.fixture(scope="module")
def chosen(made) -> Run:
    """The same run with a finished choice: six trainings."""
    run = Run(str(made))
    choose(run, make_config(ChooseConfig, VALUES))
    return run


def test_a_choice_says_what_it_took_and_why(chosen):
    """Six trainings of eight rows; what one step teaches is above chance in no task, so the champion stays."""
    choice = chosen.noun("choices").read_json("choice.json")
    assert choice["method"] == choice["champion"] == "balanced"
    assert choice["select"] == {"method": "balanced", "clusters": "main"}
    assert choice["why"] == "'balanced' stays, as no challenger can be compared with it"
    assert set(choice["verdicts"]) == {"root"}
    trials = chosen.noun("sweeps", "choose-main").read_json("results.json")["trials"]
    assert len(trials) == 6
    assert {(trial["trained_rows"], trial["steps"]) for trial in trials} == {(8, 1)}
    report = (Path(chosen.uri) / "choices/main/report.md").read_text("utf-8")
    assert f"# balanced: {choice['why']}" in report


def test_a_task_of_few_images_does_not_count(chosen):
    """One row of `task 0` gives no error, so it is not compared, and the report says so."""
    evidence = chosen.noun("choices").read_json("evidence.json")
    (found,) = evidence["differences"].values()
    assert "task 0" not in {task.partition("/")[0] for task in found["tasks"]}
    report = (Path(chosen.uri) / "choices/main/report.md").read_text("utf-8")
    assert "task 0 does not count: 1 images are fewer than 10, which an error needs" in report


def test_asked_again_nothing_is_trained(chosen):
    """Finished trainings are found, and the answer is the same."""
    folder = Path(chosen.uri) / "sweeps/choose-main/trained"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    choose(chosen, make_config(ChooseConfig, VALUES))
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")} == before


def test_select_auto_is_the_chosen_selection_and_stale_with_another_choice(chosen, tmp_path):
    """Same rows as the chosen method with its settings; when the choice changes, the selection is stale by name."""
    shutil.copytree(chosen.uri, tmp_path / "run")
    run = Run(str(tmp_path / "run"))
    noun = run.noun("choices")
    path = tmp_path / "run/choices/main/choice.json"
    choice = json.loads(path.read_text())
    assert choice["select"] == {"method": "balanced", "clusters": "main"}
    select(run, make_config(SelectConfig, {"method": "auto", "ratio": 0.3, "label": "auto"}))
    select(run, make_config(SelectConfig, {"method": "balanced", "ratio": 0.3, "label": "plain"}))
    assert read_all(run.noun("selection", "auto")).equals(read_all(run.noun("selection", "plain")))
    manifest = noun.require("test")
    noun.begin({**manifest.description, "inputs": {"other": "x"}})
    noun.write_json("choice.json", {**choice, "select": VALUES["variants"]["root"]})
    noun.finish(metrics=manifest.metrics)
    found = run.noun("selection", "auto")
    assert "choices" in str(why_stale(found, found.require("test")))
    auto = {"method": "auto", "ratio": 0.3, "label": "auto", "replace": True}
    select(run, make_config(SelectConfig, auto))
    select(run, make_config(SelectConfig, {**VALUES["variants"]["root"], "ratio": 0.3, "label": "root"}))
    assert read_all(run.noun("selection", "auto")).equals(read_all(run.noun("selection", "root")))


def test_marks_are_the_users_own_beside_a_choice(chosen):
    """`--method auto --ignore-marks` is a selection; without it the marks of the choice stay."""
    values = {"method": "auto", "ratio": 0.3}
    config, _ = settled(chosen, make_config(SelectConfig, {**values, "marks": []}))
    assert (config.method, config.ratio, config.marks) == ("balanced", 0.3, ())
    assert settled(chosen, make_config(SelectConfig, values))[0].marks is None


def test_auto_without_a_choice_names_the_command(made, tmp_path):
    """So does one whose choice has another label."""
    write_samples(Run(str(tmp_path)), ["a", "b"], ["t", "t"])
    with pytest.raises(UserError, match=r"choices/main.*raycurate choose"):
        select(Run(str(tmp_path)), make_config(SelectConfig, {"method": "auto"}))


def test_settings_of_a_method_that_is_not_known_yet_are_refused(chosen):
    """Power, options or an envelope belong to the choice, as a variant."""
    for own in ({"task_power": 0.5}, {"envelope": "on"}, {"options": {"temperature": 0.1}}):
        with pytest.raises(UserError, match=f"method 'auto' takes {next(iter(own))} from what"):
            select(chosen, make_config(SelectConfig, {"method": "auto", **own}))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"seeds": [0, 1]}, r"seeds \[0, 1\] are fewer than 3"),
        ({"methods": ["full"]}, "'full' is no method that a budget"),
        ({"methods": ["auto"]}, "'auto' is no method that a budget"),
        ({"options": {"coincide": {"temperature": 1}}, "methods": ["random"]}, "options of 'coincide'"),
        ({"finetune": {"seed": 3}}, "finetune.seed is set by the choice"),
        ({"methods": ["random", "random"]}, "has a value twice"),
        ({"data": "main"}, "data 'main' are the samples that the trainings choose from"),
    ],
)
def test_wrong_settings_are_told(own, message):
    """Before anything runs."""
    with pytest.raises(UserError, match=message):
        make_config(ChooseConfig, own)


def test_a_validation_set_that_is_not_there_is_told_first(made):
    """The command that makes it is named; nothing was trained."""
    with pytest.raises(UserError, match="samples/validation"):
        choose(Run(str(made)), make_config(ChooseConfig, {"label": "none"}))
    assert not (made / "sweeps/choose-none").exists()


def test_a_proxy_has_the_budget_or_five_percent():
    """Whichever is less; a number that is given holds, as far as there are rows."""
    assert make_config(ChooseConfig, {"ratio": 0.2}).proxy_rows(1000) == 50
    assert make_config(ChooseConfig, {"ratio": 0.01}).proxy_rows(1000) == 10
    assert make_config(ChooseConfig, {"rows": 400}).proxy_rows(1000) == 400
    assert make_config(ChooseConfig, {"rows": 4000}).proxy_rows(1000) == 1000


def test_a_recipe_chooses_before_it_selects(tmp_path):
    """With method auto the validation rows and the choice come first; without it `choose` stays an experiment."""
    path = tmp_path / "recipe.yaml"
    base = {"run": "r", "ingest": {"source": "a.json"}, "validation": {"source": "b.json", "label": "validation"}}
    own = {"cluster": {"clusters": 4}, "choose": {}, "select": {"method": "auto"}}
    path.write_text(json.dumps({**base, **own}))
    names = [name for name, _, _ in steps_of(load_recipe(path))]
    assert names == ["ingest", "extract", "cluster", "validation", "choose", "select"]
    path.write_text(json.dumps({**base, **own, "select": {}}))
    recipe: Recipe = load_recipe(path)
    assert [name for name, _, _ in steps_of(recipe)][-3:] == ["select", "validation", "choose"]


def test_a_recipe_reads_validation_rows_before_it_compares_with_them(tmp_path):
    """`decontaminate` against the validation set of `choose`, of which no row may be trained on."""
    path = tmp_path / "recipe.yaml"
    base = {"run": "r", "ingest": {"source": "a.json"}, "validation": {"source": "b.json", "label": "validation"}}
    own = {"decontaminate": {"against": "validation"}, "choose": {}, "select": {"method": "auto"}}
    path.write_text(json.dumps({**base, **own}))
    assert [name for name, _, _ in steps_of(load_recipe(path))] == [
        "ingest",
        "validation",
        "decontaminate",
        "choose",
        "select",
    ]
