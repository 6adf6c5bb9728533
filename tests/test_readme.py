"""Every command line that the README, the pages beside the code and the help texts print is one that is taken.

Lines of `raycurate` and of the jobs are read by the program itself, up to the first work; targets of `make` are there;
what needs a cluster stands in the page about clusters and nowhere else. The Python of the README is run.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from PIL import Image

from raycurate.cli import support
from raycurate.cli.main import main
from raycurate.cli.options import StageCommand
from raycurate.run.store import Run
from raycurate.samples.quarantine import Reason

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^ +(?:\w+=\S+ )?(raycurate [a-z-]+ .*?)$", re.MULTILINE)
RUN_HERE = ("run", "status", "settings")
"""Commands without settings of a stage that end at once in an empty run directory."""
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
    "raycurate/cleaning/README.md",
    "raycurate/balancing/README.md",
    "raycurate/report/README.md",
    "raycurate/samples/README.md",
    "cluster_configs/README.md",
    "jobs/RESULTS.md",
)
CLUSTER_PAGE = "cluster_configs/README.md"
CLUSTER_PROGRAMS = ("ray", "export")
"""What a line of a block begins with that needs a cluster."""
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
LINES = sorted({*printed_lines(README), *lines_of_the_help()})


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with what the lines name: run directories, weights and the recipes."""
    for name in ("runs/mine", "runs/base", "runs/llava", "runs/demo", "runs/run", "demo-run/run"):
        Run(str(tmp_path / name)).noun("samples").begin({})
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
    if not isinstance(main.commands[command], StageCommand) and command not in RUN_HERE:
        main.commands[command].make_context(command, words)  # it has no config, and looks at other machines
        return
    words += ["--dry-run"] if command == "run" else []
    done = CliRunner().invoke(main, [command, *words])
    assert done.exit_code == 0, done.output
    assert made or command in RUN_HERE


@pytest.mark.parametrize("text", sorted(set(INLINE.findall(README))))
def test_a_command_in_the_text_has_the_options_that_it_is_said_to_have(text):
    """With words such as STAGE in the place of values, and `...` for the rest."""
    _, name, *words = shlex.split(text.replace("...", ""))
    command = main.commands[name]
    read, left, _ = command.make_parser(click.Context(command)).parse_args(list(words))
    taken = {flag for given in command.params if given.name in read for flag in given.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= taken
    assert left == []


def lines_of_blocks(page: str) -> list[list[str]]:
    """The words of each command of an indented block, without comments and variables, continued lines in one."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL).replace("\\\n", " ")
    blocks = re.findall(r"^ {4}(?=[a-zA-Z])(.*)$", text, re.MULTILINE)
    split = [shlex.split(re.sub(r"^\w+=\S+ ", "", line), comments=True) for line in blocks if "'" not in line]
    return [words for words in split if len(words) > 1 and "/" not in words[0]]


def job_lines() -> list[list[str]]:
    """Every `python jobs/...` of the pages: in blocks, submitted or not, and in the text."""
    found = [words for page in PAGES for words in lines_of_blocks(page)]
    submitted = [words[words.index("--") + 1 :] if words[0] == "ray" and "--" in words else words for words in found]
    inline = [shlex.split(text) for text in re.findall(r"`(python jobs/[^`]*)`", README)]
    return [words for words in (*submitted, *inline) if words[0] == "python"]


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_block_is_of_a_program_that_is_checked(page):
    """`raycurate` and `python jobs/...` by the tests beside; `make` here; what needs a cluster is on its page."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, *words in lines_of_blocks(page):
        if program in CLUSTER_PROGRAMS:
            assert page == CLUSTER_PAGE, (page, program)
        elif program == "make":
            assert words[0] in targets, (page, words)
        else:
            assert program in ("raycurate", "python"), (page, program, words)
    for target in re.findall(r"`make ([a-z-]+)`", (ROOT / page).read_text(encoding="utf-8")):
        assert target in targets, (page, target)


@pytest.mark.parametrize(
    "words", [list(words) for words in sorted({tuple(words) for words in job_lines()})], ids=" ".join
)
def test_a_printed_job_takes_its_options(words, monkeypatch):
    """The script is there, and so is every option and every recipe that is named."""
    monkeypatch.syspath_prepend(ROOT / "jobs")  # as Python does for a script
    _, script, *options = words
    command = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    if isinstance(command, click.Group):
        command = command.commands[options.pop(0)]
    read, left, _ = command.make_parser(click.Context(command)).parse_args(list(options))
    assert left == []
    assert all((ROOT / word).exists() for word in options if word.startswith("jobs/"))
    arguments = {parameter.name for parameter in command.params if isinstance(parameter, click.Argument)}
    assert arguments <= set(read)
    assert len(set(read) - arguments) == len({word for word in options if word.startswith("--")})


def test_the_jobs_are_printed():
    """Those that are submitted, and the benches behind the figures."""
    scripts = {words[1] for words in job_lines()}
    assert {"jobs/bench.py", "jobs/curate.py", "jobs/finetune.py", "jobs/balance.py"} <= scripts


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, ray_cluster):
    """From a source to a selection, in a folder that has what it names."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (24, 24), "red").save(tmp_path / "images" / "red.png")
    rows = [
        {
            "id": number,
            "task": "ab"[number % 2],
            **({"image": "red.png"} if number % 8 == 0 else {}),
            "conversations": [
                {"from": "human", "value": f"{'<image>' if number % 8 == 0 else ''}What is {number}?"},
                {"from": "gpt", "value": f"It is {number}."},
            ],
        }
        for number in range(120)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    kept = pa.concat_tables(Run("runs/mine").noun("selection").iter_parts(["kept"]))["kept"]
    assert (len(kept), pc.sum(kept).as_py()) == (120, 24)


@pytest.mark.parametrize("name", ["README.md", "raycurate/selection/README.md"])
def test_pages_count_the_reasons_of_the_quarantine(name):
    assert f"({len(Reason)} kinds" in (ROOT / name).read_text(encoding="utf-8")


def test_the_face_fits_two_screens_and_leads_on():
    """The rest lies beside what it describes; every file that a page names is there."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), (page, target)
        for named in re.findall(r"`((?:tests|jobs|raycurate|cluster_configs)/[\w./-]+)`", text):
            assert (ROOT / named).exists(), (page, named)
