"""Tables become samples by the columns that the user names, or by a function of the user, from the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.run.store import Run
from tests.hostile import encoded
from tests.nouns import read_all


def ingest(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(main, ["ingest", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def messages_of(folder) -> list[list[str]]:
    rows = read_all(Run(str(folder)).noun("samples")).to_pylist()
    return sorted([message["text"] for message in row["messages"]] for row in rows)


def test_a_table_by_its_columns(tmp_path):
    """Of Parquet: only what is named is read, the images in front; what no rule reads is told."""
    table = {
        "ask": [f"What is {i}?" for i in range(6)],
        "reply": [{"text": f"It is {i}."} if i else None for i in range(6)],
        "pic": [{"bytes": encoded(seed=i), "path": None} for i in range(6)],
        "kind": ["a", "b"] * 3,
        "essay": ["x" * 300] * 6,
    }
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table(table), source)
    assert "--columns question=COLUMN" in ingest(str(source), "--out", str(tmp_path / "r0"), exit_code=1)
    columns = "question=ask,answer=reply.text,image=pic,task=kind"
    ingest(str(source), "--columns", columns, "--out", str(tmp_path / "r1"))
    assert messages_of(tmp_path / "r1") == [[f"<image>\nWhat is {i}?", f"It is {i}."] for i in range(1, 6)]
    metrics = Run(str(tmp_path / "r1")).noun("samples").manifest().metrics
    assert (metrics["tasks"], metrics["not_read"]) == ({"a": 2, "b": 3}, {"essay": 6})
    several = [option for pair in columns.split(",") for option in ("--columns", pair)]
    ingest(str(source), *several, "--out", str(tmp_path / "r2"))
    assert messages_of(tmp_path / "r2") == messages_of(tmp_path / "r1")


def test_rows_by_a_function_of_the_user(tmp_path, monkeypatch):
    """All columns reach it; what it leaves out or fails on is counted, and its code is part of what the samples are."""
    code = """
def row(each):
    if each["n"] == 0:
        return None
    return {"question": each["words"]["q"], "answer": str(6 // (each["n"] - 5)), "task": "division"}
"""
    (tmp_path / "my_rows.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": list(range(10)), "words": [{"q": f"6/({i} - 5)?"} for i in range(10)]}), source)
    run = tmp_path / "run"
    # A process of its own: workers of a cluster that is there already look only where it was started.
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "raycurate.cli", "ingest", str(source), "--row", "my_rows:row", "--out", str(run)]
    subprocess.run(command, env=found, check=True, capture_output=True)
    assert len(messages_of(run)) == 8
    noun = Run(str(run)).noun("samples")
    assert noun.manifest().quarantined == {"left_out": 1, "row_function_failed": 1}
    assert noun.manifest().metrics["tasks"] == {"division": 8}
    assert "cannot be imported" in ingest(str(source), "--row", "my_rows:none", "--out", f"{run}2", exit_code=1)
    assert noun.manifest().description["inputs"]["row_function"]
