"""forget: rows leave every file of a run for good, the others stay current, and going on after a stop is the same."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from raycurate.cli.main import main
from raycurate.config import ExportConfig, IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import forget as stage
from raycurate.stages.engine.exported import noted_exports
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.shards import map_here
from raycurate.stages.engine.status import status
from raycurate.stages.export import export
from raycurate.stages.forget import forget
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from tests.nouns import read_all, write_features, write_scores

ROWS = 30


def _write(folder) -> None:
    """Two files of rows, each of which says a word of its own; one row without its image, one with an exact copy."""
    (folder / "images").mkdir()
    Image.new("RGB", (40, 40), (90, 90, 40)).save(folder / "images" / "shown.png")
    Image.new("RGB", (40, 40), (9, 9, 4)).save(folder / "images" / "alone.png")
    rows = []
    for i in range(ROWS):
        image = {3: "nowhere.png", 4: "alone.png"}.get(i, "shown.png")
        turns = [{"from": "human", "value": f"<image>\nsecret{i:03d}?"}, {"from": "gpt", "value": "it is"}]
        rows.append({"id": f"row {i:03d}", "image": image, "conversations": turns, "task": f"t{i % 2}"})
    rows.append({**rows[5], "id": "copy"})
    (folder / "first.json").write_text(json.dumps(rows[:20]))
    (folder / "more.json").write_text(json.dumps(rows[20:]))


def _made(folder) -> Run:
    """A run with appended rows, features, scores, a selection and a page."""
    run = Run(str(folder / "run"))
    for name in ("first", "more"):
        _ingest(run, folder, name, append=name == "more")
    samples = run.noun("samples")
    keys = read_all(samples)["key"].to_pylist()
    shards = samples.require("ingest").shards
    rows_ND = np.eye(len(keys), dtype=np.float16)
    write_features(run, keys, rows_ND, shards=shards)
    write_scores(run, "given", {"key": keys, "difficulty": [float(i) for i in range(len(keys))]}, shards=shards)
    _select(run)
    (folder / "run" / "pages").mkdir()
    for page in ("report.html", "pages/index.html"):
        (folder / "run" / page).write_text("secret004")
    return run


def _ingest(run: Run, folder, name: str, **settings):
    values = {"source": str(folder / f"{name}.json"), "images": str(folder / "images"), "rows_per_shard": 8}
    return ingest(run, make_config(IngestConfig, {**values, "max_rejected": 1, **settings}))


def _select(run: Run):
    return select(run, make_config(SelectConfig, {"method": "stratified", "ratio": 0.5}), map_here)


def _keys(run: Run, words: set[str], folder) -> list[str]:
    """Keys of the rows that say these words, those in the quarantine too; written to a file."""
    texts = {row["key"]: row["messages"][0]["text"] for row in read_all(run.noun("samples")).to_pylist()}
    for part in (folder / "run" / "quarantine").glob("samples-main/*.parquet"):
        texts |= {row["key"]: row["excerpt"] for row in pq.read_table(part).to_pylist()}
    keys = [key for key, text in texts.items() if any(word in text for word in words)]
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
    return keys


def _files_with(folder, texts) -> list[str]:
    """Files below a folder in whose values, or bytes, one of the texts is."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            said = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_bytes().decode()
            found += [str(path)] if any(text in said for text in texts) else []
    return found


def test_no_file_holds_forgotten_rows(tmp_path):
    """Rows, a copy, a refused row, an image of their own: no noun, quarantine, page or export says a word of them."""
    _write(tmp_path)
    run = _made(tmp_path)
    words = {"secret003", "secret004", "secret005", "secret025"}
    keys = _keys(run, words, tmp_path)
    assert len(keys) == 5
    hashes = [key.split("-")[0] for key in keys]
    assert len(_files_with(tmp_path / "run", [*hashes, *words, "alone.png"])) > 6
    before = run.noun("features").require("extract")
    removed = forget(run, str(tmp_path / "keys.txt"))
    assert (removed.rows, removed.unknown) == (4, 0)
    assert set(removed.rewritten) == {"samples/main", "features/main", "row_scores/given"}
    assert set(removed.deleted) == {"selection/main"}
    assert _files_with(tmp_path / "run", [*hashes, *words, "alone.png"]) == []
    samples = required(run.noun("samples"))
    assert (samples.rows_in, samples.rows_out) == (ROWS + 1 - 5, ROWS + 1 - 5)
    assert sum(samples.metrics["tasks"].values()) == samples.rows_out
    features = required(run.noun("features"), of=samples)
    assert (features.rows_out, features.metrics) == (samples.rows_out, before.metrics)
    left = read_all(run.noun("features"))
    assert left["key"].equals(read_all(run.noun("samples"))["key"])
    _select(run)
    out = tmp_path / "run" / "out.json"
    export(run, make_config(ExportConfig, {"out": str(out)}))
    assert _files_with(tmp_path / "run", [*hashes, *words]) == []
    assert {line.state for line in status(run)} == {"done"}


def test_forgotten_rows_do_not_come_back(tmp_path):
    """The same sources again are done, and made anew they give the others: refused, with their place and no word."""
    _write(tmp_path)
    run = _made(tmp_path)
    words = {"secret004", "secret025"}
    _keys(run, words, tmp_path)
    forget(run, str(tmp_path / "keys.txt"))
    kept = read_all(run.noun("samples"))["key"].to_pylist()
    made = run.noun("samples").manifest()
    assert _ingest(run, tmp_path, "first") == made
    assert _ingest(run, tmp_path, "more", append=True) == made
    _ingest(run, tmp_path, "first", replace=True, slice_rows=7, max_chars=100_000)
    again = _ingest(run, tmp_path, "more", append=True, max_chars=100_000)
    assert sorted(read_all(run.noun("samples"))["key"].to_pylist()) == sorted(kept)
    assert again.quarantined == {"image_missing": 1, "forgotten": 2}
    assert _files_with(tmp_path / "run", words) == []


@pytest.mark.parametrize("calls", [0, 2, 6, 9])
def test_a_forget_that_was_cut_off_goes_on(tmp_path, monkeypatch, calls):
    """Stopped at any part of any noun, the same command ends in the same run: no more is made again than without."""
    for name in ("cut", "whole"):
        (tmp_path / name).mkdir()
        _write(tmp_path / name)
        run = _made(tmp_path / name)
        _keys(run, {"secret004", "secret025"}, tmp_path / name)
        if name == "cut":
            original, done = stage._rewrite_part, []

            def rewrite(*arguments, original=original, done=done):
                if len(done) == calls:
                    raise KeyboardInterrupt
                done.append(arguments)
                return original(*arguments)

            with monkeypatch.context() as patched:
                patched.setattr(stage, "_rewrite_part", rewrite)
                with pytest.raises(KeyboardInterrupt):
                    forget(run, str(tmp_path / name / "keys.txt"))
        forget(run, str(tmp_path / name / "keys.txt"))
        required(run.noun("features"), of=required(run.noun("samples")))
        required(run.noun("row_scores", "given"))
    cut, whole = (Run(str(tmp_path / name / "run")) for name in ("cut", "whole"))
    for noun in ("samples", "features"):
        assert read_all(cut.noun(noun)).equals(read_all(whole.noun(noun)))
    assert [(n.noun, n.label) for n in cut.nouns()] == [(n.noun, n.label) for n in whole.nouns()]


def test_the_command_tells_what_it_did(tmp_path):
    """Rows and the nouns they left, what is gone and how it is made again, keys that nothing names; or an error."""
    _write(tmp_path)
    run = _made(tmp_path)
    _keys(run, {"secret005"}, tmp_path)
    with (tmp_path / "keys.txt").open("a") as file:
        file.write("f" * 32 + "-0\n")
    done = CliRunner().invoke(main, ["forget", run.uri, "--keys", str(tmp_path / "keys.txt")])
    assert done.exit_code == 0, done.output
    assert "2 rows left samples/main, features/main, row_scores/given" in done.output
    assert "selection/main is gone. Made again by `raycurate select " in done.output
    assert "1 of the keys were named nowhere" in done.output
    failed = CliRunner().invoke(main, ["forget", run.uri, "--keys", str(tmp_path / "none.txt")])
    assert failed.exit_code == 1
    assert "there is no file" in failed.output


def test_exports_that_hold_a_forgotten_row_are_gone(tmp_path):
    """A file and a folder with the row go; one without it stays, and so does one that was changed since, named."""
    _write(tmp_path)
    run = _made(tmp_path)
    kept = read_all(run.noun("selection")).filter(pc.field("kept"))["key"].to_pylist()
    of_row = {row["key"]: row["messages"][0]["text"] for row in read_all(run.noun("samples")).to_pylist()}
    _keys(run, {of_row[kept[0]].split()[-1].strip("?")}, tmp_path)
    places = {"file.json": "llava", "tars": "webdataset", "mine.json": "llava"}
    for name, format in places.items():
        export(run, make_config(ExportConfig, {"out": str(tmp_path / name), "format": format}))
    (tmp_path / "mine.json").write_text("mine now")
    removed = forget(run, str(tmp_path / "keys.txt"))
    assert set(removed.exports) == {str(tmp_path / "file.json"), str(tmp_path / "tars")}
    assert removed.changed == [str(tmp_path / "mine.json")]
    assert sorted(each.out for each in noted_exports(run)) == [str(tmp_path / "mine.json")]
    assert not list(tmp_path.glob("file.json*"))
    assert not (tmp_path / "tars").exists()
    _select(run)
    export(run, make_config(ExportConfig, {"out": str(tmp_path / "file.json")}))
    export(run, make_config(ExportConfig, {"out": str(tmp_path / "all"), "format": "fiftyone"}))
    dropped = read_all(run.noun("selection")).filter(~pc.field("kept"))["key"].to_pylist()
    (tmp_path / "keys.txt").write_text(f"{dropped[0]}\n")
    assert set(forget(run, str(tmp_path / "keys.txt")).exports) == {str(tmp_path / "all")}  # it has what was not kept
    assert (tmp_path / "file.json").exists()


def test_what_cannot_be_forgotten_is_said(tmp_path):
    """No file, no keys, no key; a noun that is not finished; a file of the user's own that names a row."""
    _write(tmp_path)
    run = _made(tmp_path)
    file = tmp_path / "keys.txt"
    for other in (file, tmp_path):
        with pytest.raises(UserError, match="there is no file"):
            forget(run, str(other))
    for text, told in (("\n\n", "names no key"), ("row 004\n", "line 1 of .* is no key: 'row 004'")):
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            forget(run, str(file))
    (key,) = _keys(run, {"secret004"}, tmp_path)
    note = tmp_path / "run" / "mine.txt"
    note.write_text(f"look at {key}")
    with pytest.raises(UserError, match=r"still named in .*mine\.txt"):
        forget(run, str(file))
    note.unlink()
    clusters = run.noun("clusters")
    clusters.begin({"stage": "cluster"})
    clusters.commit_part(0, pa.table({"key": [key]}), rows_in=1)
    with pytest.raises(UserError, match="'clusters/main' is not finished"):
        forget(run, str(file))


def test_attempts_without_a_row_are_in_nobodys_way(tmp_path):
    """An append of no use and a selection that was refused have begun; neither can be finished first."""
    _write(tmp_path)
    run = _made(tmp_path)
    (tmp_path / "bad.json").write_text('[{"other": 1}]')
    with pytest.raises(UserError, match="no row of"):
        _ingest(run, tmp_path, "bad", append=True)
    run.noun("selection", "new").begin({"stage": "select"})
    (key,) = _keys(run, {"secret004"}, tmp_path)
    removed = forget(run, str(tmp_path / "keys.txt"))
    assert removed.rows == 1
    assert removed.deleted.pop("selection/new") == f"`raycurate select {run.uri} --label new`"
    assert any(f"/bad.json --out {run.uri} --append" in command for command in removed.deleted.values())
    assert [noun.label for noun in run.nouns() if noun.manifest() is None] == []
    assert not _files_with(tmp_path / "run", [key])
