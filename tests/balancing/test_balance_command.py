"""`raycurate balance` from a file to a file that `finetune --weights` reads."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.training.weights import read_weights
from tests.balancing.golden_table import GOLDEN, golden_csv

COLUMNS = {
    "out": "weight_out",
    "in": "weight_in",
    "inter": "weight_inter",
    "diff": "weight_difficulty",
    "final": "weight",
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The published table as a file."""
    path = tmp_path / "probes.csv"
    path.write_text(golden_csv(), encoding="utf-8")
    return path


def call(*words: object):
    """Run the command."""
    return CliRunner().invoke(main, ["balance", *map(str, words)])


def test_published_weights_by_the_command(table: Path, tmp_path: Path) -> None:
    """All 35 to the fourth decimal, in the file and on the screen."""
    out = tmp_path / "weights.json"
    done = call("--scores", table, "--out", out)
    assert done.exit_code == 0, done.output
    made = json.loads(out.read_text())
    for name, column in COLUMNS.items():
        found = [round(made["units"][task][column], 4) for task in GOLDEN["tasks"]]
        assert found == GOLDEN["weights"][name]
        assert all(f"{weight:.4f}" in done.output for weight in GOLDEN["weights"][name])
    for task, ratio in zip(GOLDEN["tasks"], GOLDEN["validation_ratio_mini_over_full"], strict=True):
        assert made["units"][task]["difficulty"] == pytest.approx(1 - ratio)
        assert f"{1 - ratio:.4f}" in done.output
    assert made["contributions"]["GQA"]["GQA"] == pytest.approx(1)


def test_the_file_says_what_it_was_made_of(table: Path, tmp_path: Path) -> None:
    """Formula, table, its fingerprint, settings; a finetune reads the weights alone."""
    out = tmp_path / "weights.json"
    words = ["--temperature", "auto", "--fixed", "text=0.8", "--alpha", "0.5,0,0.5", "--set", "near_zero=0.2"]
    done = call("--scores", table, "--out", out, *words)
    assert done.exit_code == 0, done.output
    made = json.loads(out.read_text())
    assert made["table"] == {"path": str(table), "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
    assert made["formula"].startswith("lambda = 0.5 N softmax(C_out / T) + 0 N softmax(-C_in / T) + 0.5 N")
    assert made["settings"]["temperature"] == "auto"
    assert 0.05 < made["temperature"] < 1
    assert [concern["unit"] for concern in made["concerns"]] == ["VQAv2", "OCRVQA"]
    assert done.output.count("warning:") == 2
    weights = read_weights(str(out))
    assert weights == made["weights"]
    assert weights["text"] == 0.8
    assert set(weights) == {*GOLDEN["tasks"], "text"}


def test_groups_by_the_command(table: Path, tmp_path: Path) -> None:
    """A column per group: every task of it has the group's weight."""
    groups, out = tmp_path / "groups.yaml", tmp_path / "weights.json"
    lists = {task: [f"{task}-1", f"{task}-2"] for task in GOLDEN["tasks"]}
    groups.write_text(json.dumps(lists))  # JSON is YAML
    done = call("--scores", table, "--groups", groups, "--out", out)
    assert done.exit_code == 0, done.output
    weights = read_weights(str(out))
    assert len(weights) == 14
    assert round(weights["RefCOCO-bbox-1"], 4) == round(weights["RefCOCO-bbox-2"], 4) == 1.6403
    groups.write_text(json.dumps({"caption": ["ShareGPT4V"], "rest": ["RefCOCO-captions", *GOLDEN["tasks"][2:]]}))
    done = call("--scores", table, "--groups", groups, "--out", out)
    assert done.exit_code == 1
    assert "in no group 'RefCOCO-caption'. Did you mean 'RefCOCO-captions'?" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--temperature", "warm"], "temperature: Input should be 'auto' or a valid number"),
        (["--temperature", "0"], "greater than 0"),
        (["--temperature", "nan"], "temperature"),
        (["--alpha", "1,0"], "2 shares"),
        (["--alpha", "1,1,0"], "must sum to 1"),
        (["--form", "talk"], "'mini' or 'chat'"),
        (["--form", "chat"], "no row 'base' but a row 'mini'"),
        (["--difficulty", "precise"], "no row 'mini:ShareGPT4V'"),
        (["--fixed", "text"], "NAME=VALUE, for example sharegpt=1.0"),
        (["--fixed", "text=-1"], "greater than 0"),
        (["--set", "near_zer=1"], "Did you mean 'near_zero'?"),
        (["--strict", "--set", "near_zero=0.2"], "'VQAv2' gains 11.5 %"),
        (["--groups", "none.yaml"], "cannot read none.yaml"),
    ],
)
def test_wrong_settings_end_in_one_line(table: Path, tmp_path: Path, words: list[str], told: str) -> None:
    """Exit code 1, the message, and no file."""
    out = tmp_path / "weights.json"
    done = call("--scores", table, "--out", out, *words)
    assert done.exit_code == 1
    assert told in " ".join(done.stderr.split())
    assert not out.exists()


def test_wrong_tables_end_in_one_line(tmp_path: Path) -> None:
    """A table that is not there, is no text, or is wrong in a line."""
    path = tmp_path / "t.csv"
    for data, told in (
        (None, "cannot read"),
        (b"probe,a\xff\n", "is not UTF-8 text"),
        (b"probe,a,b\nmini,1,x\n", "t.csv, line 2, task 'b': 'x' is not a number"),
        (b"probe,a,b\nmini,1,2\n", "has no row 'a'"),
    ):
        if data is not None:
            path.write_bytes(data)
        done = call("--scores", path, "--out", tmp_path / "w.json")
        assert done.exit_code == 1
        assert told in " ".join(done.stderr.split())


def test_no_ray_is_loaded(table: Path, tmp_path: Path) -> None:
    """The command runs without Ray, torch or transformers in the process."""
    program = (
        "import sys; from raycurate.cli.main import main\n"
        f"main(['balance', '--scores', {str(table)!r}, '--out', {str(tmp_path / 'w.json')!r}], standalone_mode=False)\n"
        "print([m for m in ('ray', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
