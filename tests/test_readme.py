"""Every command line that the README and the help texts print is one that the program takes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from raycurate.cli import support
from raycurate.cli.main import main
from raycurate.run.store import Run

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^ +(?:\w+=\S+ )?(raycurate [a-z-]+ .*?)$", re.MULTILINE)
INLINE = re.compile(r"`(raycurate [a-z-]+[^`]*)`")


def printed_lines(text: str) -> Iterator[str]:
    """The command lines of code blocks, without comments, continued lines in one."""
    for line in LINE.findall(text.replace("\\\n", " ")):
        yield shlex.join(shlex.split(line, comments=True))


def lines_of_the_help() -> Iterator[str]:
    """The examples of every command."""
    for command in (main, *main.commands.values()):
        yield from printed_lines(command.callback.__doc__ or "")


PAGES = (
    "README.md",
    "raycurate/selection/README.md",
    "raycurate/balancing/README.md",
    "cluster_configs/README.md",
    "jobs/RESULTS.md",
)
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
LINES = sorted({*printed_lines(README), *lines_of_the_help()})


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with what the lines name: run directories, weights and the recipes."""
    for name in ("mine", "base", "llava", "demo", "run"):
        Run(str(tmp_path / "runs" / name)).noun("samples").begin({})
    (tmp_path / "weights.json").write_text(json.dumps({"task": 1.0}), encoding="utf-8")
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_such_lines():
    """The README shows the whole way, and every command of the program has an example."""
    shown = {line.split()[1] for line in LINES}
    assert shown >= set(main.commands) - {"settings"}
    assert len([line for line in LINES if line in set(printed_lines(README))]) > 20


@pytest.mark.parametrize("line", LINES)
def test_a_printed_line_is_taken(place, monkeypatch, line):
    """Its options are known, their values valid, and its settings make a config; there it ends, before any work."""
    made = []
    make_config = support.make_config

    def make_and_stop(*given):
        made.append(make_config(*given))
        raise click.exceptions.Exit(0)

    monkeypatch.setattr(support, "make_config", make_and_stop)
    _, command, *words = shlex.split(line)
    words += ["--dry-run"] if command == "run" else []
    done = CliRunner().invoke(main, [command, *words])
    assert done.exit_code == 0, done.output
    assert made or command in ("run", "status", "settings")


@pytest.mark.parametrize("text", sorted(set(INLINE.findall(README))))
def test_a_command_in_the_text_has_the_options_that_it_is_said_to_have(text):
    """With words such as STAGE in the place of values, and `...` for the rest."""
    _, name, *words = shlex.split(text.replace("...", ""))
    command = main.commands[name]
    command.make_parser(click.Context(command)).parse_args(words)  # raises for an option that is not there


def test_the_face_fits_two_screens_and_leads_on():
    """The rest lies beside what it describes; every file that a page names is there."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), (page, target)
        for named in re.findall(r"`((?:tests|jobs|raycurate|cluster_configs)/[\w./-]+)`", text):
            assert (ROOT / named).exists(), (page, named)
