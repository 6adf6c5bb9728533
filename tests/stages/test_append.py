"""ingest --append: the rows of one ingest of all, old parts untouched, the same after kill -9, nothing lost unasked."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from raycurate.config import ClusterConfig, ExtractConfig, IngestConfig, ScoreConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.cluster import cluster
from raycurate.stages.engine.status import status
from raycurate.stages.extract import extract
from raycurate.stages.ingest import ingest
from raycurate.stages.score import score
from raycurate.stages.select import select
from raycurate.stages.tokenize import tokenize
from raycurate.training.config import FinetuneConfig
from tests import drivers
from tests.nouns import read_all

PIECES, EACH = 10, 12
MODEL = {"model": "tiny", "max_actors": 1, "cpus_per_actor": 0.5, "cpus_per_loader": 0.5, "dtype": "float32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten files of a source, with exact copies inside a file and across files, a bad row in each, and their images."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "pieces").mkdir()
    for i in range(9):
        Image.new("RGB", (40, 30 + i), (i * 20, 90, 40)).save(folder / "images" / f"{i}.png")
    for number in range(PIECES):
        rows = []
        for i in range(EACH):
            mark, shown = ("", {}) if i % 4 == 0 else ("<image>\n", {"image": f"{(number * 5 + i) % 9}.png"})
            turns = [
                {"from": "human", "value": f"{mark}question {(number + i) % (7 if mark else 2)}"},
                {"from": "gpt", "value": f"answer {i % 3}" * (1 + i % 2)},
            ]
            rows.append({"id": f"{number}-{i}", "conversations": turns, "task": f"t{i % 3}", **shown})
        rows[5]["image"] = "nowhere.png"
        (folder / "pieces" / f"{number}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def _ingest(run, source, data, **settings):
    values = {"source": str(source), "images": str(data / "images"), "rows_per_shard": 9, **settings}
    return ingest(run, make_config(IngestConfig, values))


def _in_pieces(folder, data, count=PIECES, **settings):
    run = Run(str(folder))
    for number in range(count):
        _ingest(run, data / "pieces" / f"{number}.json", data, append=number > 0, **settings)
    return run


def _by_key(noun):
    return read_all(noun).sort_by("key").to_pylist()


def test_ten_pieces_are_one_ingest(data, tmp_path):
    """Every row with all its columns, its keys with the numbers of copies, and every count."""
    whole = Run(str(tmp_path / "whole"))
    at_once = _ingest(whole, data / "pieces" / "*.json", data)
    pieces = _in_pieces(tmp_path / "pieces", data)
    grown = pieces.noun("samples").require("ingest")
    assert _by_key(pieces.noun("samples")) == _by_key(whole.noun("samples"))
    assert max(int(row["key"].rpartition("-")[2]) for row in _by_key(whole.noun("samples"))) > 1
    assert (grown.rows_in, grown.rows_out, grown.quarantined) == (
        at_once.rows_in,
        at_once.rows_out,
        at_once.quarantined,
    )
    assert grown.metrics == at_once.metrics
    assert [noun.label for noun in pieces.nouns()] == ["main"], "nothing of a piece is left behind"


def test_appending_again_adds_nothing(data, tmp_path):
    """The same file twice, and the first source again with and without --append: what is there stays as it is."""
    run = _in_pieces(tmp_path / "run", data, 3)
    before = run.noun("samples").require("ingest")
    for number in range(3):
        assert _ingest(run, data / "pieces" / f"{number}.json", data, append=True) == before
    assert _ingest(run, data / "pieces" / "0.json", data) == before
    assert [line.state for line in status(run)] == ["done"]


def test_appended_rows_are_not_lost_unasked(data, tmp_path):
    """A first source that has changed would be read alone: that is refused, unless --replace says so."""
    source = tmp_path / "first.json"
    shutil.copy(data / "pieces" / "0.json", source)
    run = Run(str(tmp_path / "run"))
    _ingest(run, source, data)
    before = _ingest(run, data / "pieces" / "1.json", data, append=True)
    shutil.copy(data / "pieces" / "2.json", source)
    with pytest.raises(UserError, match=r"would lose what was appended \(.*1\.json\)"):
        _ingest(run, source, data)
    assert run.noun("samples").manifest() == before
    assert _ingest(run, source, data, replace=True).rows_in == EACH


def test_a_bad_source_leaves_the_samples(data, tmp_path):
    """No usable row, another image root, no samples: told, and what was there is there."""
    run = _in_pieces(tmp_path / "run", data, 1)
    before = run.noun("samples").manifest()
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([{"id": 1, "conversations": []}]))
    with pytest.raises(UserError, match="no row of"):
        _ingest(run, bad, data, append=True)
    with pytest.raises(UserError, match="images is .* for 'samples/main' and"):
        _ingest(run, data / "pieces" / "1.json", data, append=True, images=str(tmp_path))
    with pytest.raises(UserError, match="no finished 'samples/other'"):
        _ingest(run, data / "pieces" / "1.json", data, append=True, label="other")
    assert run.noun("samples").manifest() == before


@pytest.mark.parametrize("where", ["read", "taken over"])
def test_kill_9_in_an_append(data, tmp_path, where):
    """Killed while the piece is read, and while its parts are taken over: the next command gives the same bytes."""
    more = {"append": True, "rows_per_shard": 1}
    runs = [_in_pieces(tmp_path / name, data, 1) for name in ("killed", "whole")]
    samples, first = tmp_path / "killed" / "samples", runs[0].noun("samples").require("ingest").shards

    pattern, there = ("main+*", 0) if where == "read" else ("main", first)
    pieces = f"{data}/pieces/[1-3].json"
    command = ["ingest", pieces, "--images", f"{data}/images", "--out", str(tmp_path / "killed"), "--append"]
    drivers.kill_at_commit(f"*/samples/{pattern}/records/*.json", 3, *command, "--set", "rows_per_shard=1")
    assert len(list(samples.glob(f"{pattern}/records/*.json"))) == there + 3
    assert (runs[0].noun("samples").manifest() is None) == (where == "taken over")
    for run in runs:
        _ingest(run, pieces, data, **more)
    parts = [sorted((tmp_path / name).glob("samples/main/part-*")) for name in ("killed", "whole")]
    assert [part.read_bytes() for part in parts[0]] == [part.read_bytes() for part in parts[1]]
    made = [run.noun("samples").require("ingest") for run in runs]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].metrics == made[1].metrics
    counts = [(each.shards, each.rows_in, each.rows_out, each.quarantined) for each in made]
    assert counts[0] == counts[1], "each part is counted, also one that was there without its record"
    assert [noun.label for noun in runs[0].nouns()] == ["main"]


@pytest.mark.slow
def test_features_scores_and_tokens_of_new_rows_only(ray_cluster, data, tmp_path):
    """Parts of earlier rows are not written again; rows in batches of one have the bits of one ingest of all.

    So have clusters and a selection that are made anew.
    """
    alone = {**MODEL, "batch_rows": 1}
    one_by_one = make_config(ExtractConfig, alone)
    losses = make_config(ScoreConfig, {**alone, "blind": False})
    training = make_config(FinetuneConfig, {"model": "tiny", "selection": None})

    def make(run):
        nouns = [run.noun("features"), run.noun("row_scores", "token_losses")]
        extract(run, one_by_one)
        score(run, losses)
        return [*nouns, tokenize(run, training, "tiny")]

    run = _in_pieces(tmp_path / "run", data, 2)
    early = make(run)
    written = {part: part.stat().st_mtime_ns for part in (tmp_path / "run").glob("*/*/part-*.parquet")}
    _ingest(run, data / "pieces" / "2.json", data, append=True)
    assert [line.why[:75] for line in status(run) if line.name.startswith("features")] == [
        "'features/main' was made from an earlier 'samples/main', which has grown sin"[:75]
    ]
    late = make(run)
    assert [noun.label for noun in late] == [noun.label for noun in early]
    assert {part: part.stat().st_mtime_ns for part in written} == written
    whole = Run(str(tmp_path / "whole"))
    (tmp_path / "three").mkdir()
    for number in range(3):
        shutil.copy(data / "pieces" / f"{number}.json", tmp_path / "three")
    _ingest(whole, tmp_path / "three", data)
    for grown, once in zip(late, make(whole), strict=True):
        assert _by_key(grown) == _by_key(once), grown.noun
        assert grown.manifest().rows_out == once.manifest().rows_out
    for each in (run, whole):
        cluster(each, make_config(ClusterConfig, {"clusters": 3, "workers": 1, "threads": 1}))
        select(each, make_config(SelectConfig, {"ratio": 0.4}))
    for noun in ("clusters", "selection"):
        assert _by_key(run.noun(noun)) == _by_key(whole.noun(noun)), noun
    assert {line.state for line in status(run)} == {"done"}
