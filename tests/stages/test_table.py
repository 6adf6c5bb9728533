"""One row of the table makes a stage known everywhere."""

from __future__ import annotations

import importlib
import sys
import types

import click
import pytest
from click.testing import CliRunner

from raycurate import pipeline, recipe
from raycurate.cli.options import stage_command
from raycurate.cli.settings import stage_configs
from raycurate.config import ExtractConfig
from raycurate.settings import NounConfig, make_config
from raycurate.stages.engine.names import command_for
from raycurate.stages.table import STAGES, Stage, stage_of, version_of


class ToyConfig(NounConfig):
    """``toy``: nothing."""

    command_line = ("shade", "sizes")

    shade: str = "blue"
    sizes: tuple[int, ...] = (1, 2)


@pytest.fixture
def toy(monkeypatch):
    """A stage that exists for a test."""
    module = types.ModuleType("raycurate.stages.toy")
    module.toy, module.ToyConfig = lambda run, config: (run, config), ToyConfig
    monkeypatch.setitem(sys.modules, "raycurate.stages.toy", module)
    monkeypatch.setitem(STAGES, "toy", Stage("toy", 7, "stages.toy:toy", "stages.toy:ToyConfig", ("toys",)))
    yield module
    monkeypatch.undo()
    importlib.reload(recipe)
    importlib.reload(pipeline)


def test_a_row_is_a_section_a_step_and_settings(toy):
    """Read from the table by the recipe, the pipeline and the command that lists settings."""
    importlib.reload(recipe)
    importlib.reload(pipeline)
    read = make_config(recipe.Recipe, {"run": "r", "toy": {"shade": "red"}})
    ((name, stage, config),) = pipeline.steps_of(read)
    assert (name, config.shade, version_of("toy")) == ("toy", "red", 7)
    assert stage.load()("run", config) == ("run", config)
    assert stage_configs()["toy"] is ToyConfig


def test_a_command_has_the_options_of_its_config(toy):
    """With their defaults; what is not given is left to the config, and `--set` reaches the rest."""
    made = []

    @stage_command("toy", on_run=False)
    @click.option("--out", "run", required=True)
    def toy_command(run, config):
        """Play."""
        made.append((run, config))

    assert CliRunner().invoke(toy_command, ["--out", "r"]).exit_code == 0
    assert CliRunner().invoke(toy_command, ["--out", "r", "--sizes", "3,4", "--set", "shade=red"]).exit_code == 0
    assert [(config.shade, config.sizes) for _, config in made] == [("blue", (1, 2)), ("red", (3, 4))]
    text = CliRunner().invoke(toy_command, ["--help"]).output
    assert "--sizes A,B,..." in text


def test_commands_and_nouns_find_each_other(tmp_path):
    """A noun names the command that makes it; a misspelt stage the nearest one."""
    from raycurate.run.store import Run

    run = Run(str(tmp_path / "run"))
    commands = {noun: command_for(run.noun(noun)) for noun in ("features", "models", "weightings", "sketches")}
    assert commands == {
        "features": "extract",
        "models": "finetune",
        "weightings": "compare-weights",
        "sketches": "sweep",
    }
    assert command_for(run.noun("selection", "d2")) == "select --label d2", "else it would make another one"
    with pytest.raises(Exception, match="Did you mean 'extract'"):
        stage_of("extarct")
    assert stage_of("compare_weights") is STAGES["compare-weights"]
    assert all(stage.load_config().command_line for stage in STAGES.values() if stage.name in ("extract", "select"))
    assert make_config(ExtractConfig, {}).command_line == ("model", "layers", "variant", "strict")
