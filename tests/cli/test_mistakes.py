"""The mistakes that are most likely: each is told in one line, with what mends it, and starts no cluster."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from raycurate import ray_session
from raycurate.cli.main import main
from tests.init.data import write_data

MISTAKES = {
    "ingest nofile.json --out new": "nofile.json does not exist. Check the path",
    "ingest folder --out new": "folder holds no files",
    "ingest train.json": "Missing option '--out'",
    "ingest train.json --format lava --out new": "'webdataset' or 'hub' (got 'lava')",
    "ingest train.json --columns question --out new": "--columns 'question' is not of the form NAME=VALUE",
    "ingest train.json --set imags=. --out new": "unknown setting 'imags'. Did you mean 'images'?",
    "ingest train.json --set images --out new": "--set 'images' is not of the form section.field=value",
    "ingest train.json --images nowhere --out new": "nowhere is not a folder. Check the path",
    "ingest train.json --images folder --out new": "folder (--images, or --set images=FOLDER). ",
    "ingest bad.json --out new": "could be used: cut_off 1. ",
    "ingest empty.json --out new": "the source holds no rows",
    "ingest none.json --out new": "the source holds no rows",
    "ingest other.json --out new": "Other tables are read by --columns question=COLUMN",
    "ingest train.json none.json --out new": "several sources as one mixture have names: vqa=a.json",
    "ingest a=train.json a=none.json --out new": "two sources have the same name",
    "ingest a=train.json b=other.json --images . --out new": "sources.b: not one row of",
    "ingest a=train.json --out new --set sources.a.wight=1": "unknown setting 'wight'. Did you mean 'weight'?",
    "ingest train.json --task-map llava --images . --out new": "Did you mean 'llava665k'?",
    "ingest train.json --row nomodule:f --out new": "give package.module:object, its folder on PYTHONPATH",
    "ingest train.json --images . --out new --append": "has no finished 'samples/main'. Run `raycurate ingest` first",
    "ingest train.json --images . --out run --set max_turns=4": "max_turns 256 -> 4. It has 12 rows",
    "ingest train.json --images . --out run --label a/b": "'a/b' is not a plain name",
    "extract norun": "`raycurate ingest SOURCE --out norun` makes one",
    "extract run --set samples=tset": "has no finished 'samples/tset'. Run `raycurate ingest --label tset` first",
    "extract run --model ./nofolder": "there is no model folder",
    "score run --scores token_losses --model ./nofolder": "there is no model folder",
    "ingest none*.son --out new": "no file matches the source",
    "finetune run --model tiny": "has no finished 'selection/main'. Run `raycurate select` first",
    "evaluate run --model tiny --data test": "no finished 'samples/test'. Run `raycurate ingest --label test` first",
    "compare run --data test": "has no finished 'samples/test'. Run `raycurate ingest --label test` first",
    "choose run --model tiny": "has no finished 'samples/validation'. Run `raycurate ingest --label validation` first",
    "sweep run --methods coincide": "has no finished 'clusters/main'. Run `raycurate cluster` first",
    "extract run --layers five": "'auto' or a valid integer",
    "extract run --set batch_tokens=1": "greater than or equal to 8 (got 1)",
    "cluster run --clusters 3": "has no finished 'features/main'. Run `raycurate extract` first",
    "cluster run --clusters 0": "greater than or equal to 1 (got 0)",
    "cluster run": "Missing option '--clusters'",
    "score run --scores perplexity": "'token_losses', 'last_token'",
    "select run --ratio 20": "less than or equal to 1 (got 20.0)",
    "select run --ratio 0": "greater than 0 (got 0.0)",
    "select run --method coincid": "unknown method 'coincid'. Did you mean 'coincide'?",
    "select run --method coincide": "has no finished 'clusters/main'. Run `raycurate cluster` first",
    "select run --method random --where nothing>1": "The rows have task: string, source_id: string",
    "select run --method random --task-weights w.json": "take the method 'balanced' or 'stratified'",
    "select run --envelope 3": "envelope.floor: Input should be less than or equal to 1",
    "select run --method random --set options.x=1": "unknown option of method 'random' 'x'",
    "export run --out c.json": "has no finished 'selection/main'. Run `raycurate select` first",
    "export run --out c.json --format lava": "Did you mean 'llava'?",
    "run norecipe.yaml": "File 'norecipe.yaml' does not exist",
    "run typo.yaml": "unknown setting 'ingset'. Did you mean 'ingest'?",
    "run broken.yaml": "broken.yaml is not valid YAML",
    "run words.yaml": "select.ratio: Input should be a valid number",
    "run list.yaml": "must be a mapping of sections",
    "status norun": "`raycurate ingest SOURCE --out norun` makes one",
    "explain run nobody": "no row of samples/main has the key or the id 'nobody'",
    "report run": "`raycurate select` makes one",
    "decontaminate run": "Missing option '--against'",
    "settings extrct": "unknown stage 'extrct'. Did you mean 'extract'?",
    "extrct run": "Did you mean one of: 'export', 'extract'?",
    "estimate run --calibrate --json": "--calibrate takes a value (FILE), and --json is an option",
    "export run --out --label": "--out takes a value",
    "init mine --data nofile.json": "nofile.json does not exist. Check the path",
    "init mine --data train.json --target slrum": "'slrum' is not one of 'local', 'slurm'",
}
OTHERS = {
    "typo.yaml": "run: r\ningset: {source: x}\n",
    "broken.yaml": "run: [\n",
    "words.yaml": "run: r\nselect: {ratio: lots}\n",
    "list.yaml": "- a\n",
    "empty.json": "",
    "none.json": "[]",
    "other.json": '[{"a": 1}]',
    "bad.json": "{{{",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, a run of its samples, and files of other kinds."""
    folder = tmp_path_factory.mktemp("mistakes")
    source = write_data(folder, rows=12)
    (folder / "folder").mkdir()
    for name, text in OTHERS.items():
        (folder / name).write_text(text)
    words = ["ingest", str(source), "--images", str(folder), "--out", str(folder / "run")]
    assert CliRunner().invoke(main, words).exit_code == 0
    return folder


def _no_cluster(_: object) -> None:
    pytest.fail("a cluster was started before the mistake was told")


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_with_what_mends_it(place, monkeypatch, line):
    """In the command's own process, without a traceback."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(ray_session, "_start_local", _no_cluster)
    done = CliRunner().invoke(main, shlex.split(line))
    assert done.exit_code in (1, 2)
    assert MISTAKES[line] in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_every_option_says_what_it_means():
    """In three words at least; and every command has an example."""
    group = click.Context(main)
    for name, command in main.commands.items():
        assert "Example:" in (command.help or ""), name
        for option in command.get_params(click.Context(command, parent=group, info_name=name)):
            if isinstance(option, click.Option):
                assert len((option.help or "").split()) >= 3, (name, option.opts)


def test_status_is_json_for_other_programs(place):
    done = CliRunner().invoke(main, ["status", os.fspath(place / "run"), "--json"])
    found = json.loads(done.output)
    assert [(each["name"], each["state"], each["rows"]) for each in found["nouns"]] == [("samples/main", "done", 12)]
    assert found["next"][0]["command"].startswith("extract ")
