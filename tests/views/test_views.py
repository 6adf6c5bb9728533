"""Looking at a run: one row's way, two selections side by side, a sample of rows; nothing in the run changes."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from raycurate.cli.main import main
from raycurate.cli.support import out, plain
from raycurate.config import IngestConfig, SelectConfig
from raycurate.errors import UserError, unknown_name
from raycurate.report.page import build_report
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from raycurate.training.mixture import MixturePart, choose_rows
from raycurate.views.diff import diff_selections
from raycurate.views.explain import explain_row, reader_of
from raycurate.views.find import find_row
from raycurate.views.rows import Wanted, chosen_rows
from raycurate.views.trainings import epochs_over
from tests.nouns import read_all, write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case
from tests.stages.test_select_marked import write_marks

ROWS = 90
STORED = Path(__file__).parents[1] / "data" / "run_done.tar.xz"
METHODS = {
    "coincide": {"method": "coincide"},
    "balanced": {"method": "balanced"},
    "random": {"method": "random"},
    "stratified": {"method": "stratified", "task_power": 0.5},
    "inside": {"method": "coincide", "envelope": "on"},
}


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory) -> Run:
    """Five selections of 90 rows of three tasks in six clusters."""
    made = Run(str(tmp_path_factory.mktemp("views") / "run"))
    case = clustered_case(5, rows=ROWS, clusters=6)
    write_samples(made, case.keys, [f"task {min(i % 7, 2)}" for i in range(ROWS)], shards=3)
    write_features(made, case.keys, case.features, shards=3, block_dim=case.block_dim)
    write_clusters(made, case.keys, case.features, case.labels, case.centroids, shards=3)
    for label, settings in METHODS.items():
        select(made, make_config(SelectConfig, {**settings, "ratio": 0.2, "label": label}))
    return made


def kept(run: Run, label: str) -> dict[str, bool]:
    table = read_all(run.noun("selection", label))
    return dict(zip(table["key"].to_pylist(), table["kept"].to_pylist(), strict=True))


@pytest.mark.parametrize("label", METHODS)
def test_the_ratio_that_would_keep_a_row_keeps_it(run, label):
    """A real selection at the told ratio has the row; one a little below has it not."""
    dropped = sorted(key for key, stays in kept(run, label).items() if not stays)
    for key in dropped[:: len(dropped) // 2]:
        ratio = explain_row(run, key).selections[label]["kept_from_ratio"]
        for at, stays in ((ratio, True), (ratio - 0.0025, False)):
            settings = {**METHODS[label], "ratio": at, "label": "probe", "replace": True}
            select(run, make_config(SelectConfig, settings))
            assert kept(run, "probe")[key] == stays, (key, at)


def test_a_row_is_explained_by_what_its_nouns_say(run):
    """Norm, cluster, its nearest rows, rank and the numbers of its groups."""
    case = clustered_case(5, rows=ROWS, clusters=6)
    found = explain_row(run, "row 17", search_ratio=False)
    source = {"source_file": "made", "source_row": 17, "source_id": "row 17", "task": "task 2", "reader": None}
    assert found.source == source
    values = case.features.astype(np.float16).astype(np.float64)
    assert found.features["main"]["norm"] == pytest.approx(np.linalg.norm(values[17]))
    members = np.flatnonzero(case.labels == case.labels[17])
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosine = {case.keys[i]: unit[i] @ unit[17] for i in members if i != 17}
    nearest = found.clusters["main"]["nearest"]
    assert found.clusters["main"]["size"] == len(members)
    assert [each["key"] for each in nearest] == sorted(cosine, key=lambda key: -cosine[key])[: len(nearest)]
    assert "kept_from_ratio" not in found.selections["random"]
    group = found.selections["coincide"]["group"]
    assert group["clusters"]["size"] == len(members)


def test_scores_and_trainings_of_a_finished_run(tmp_path):
    """Percentiles count the rows below; a row that was dropped was not seen by the training on the kept ones."""
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path)
    run = Run(str(tmp_path / "run"))
    table = read_all(run.noun("row_scores", "token_losses"))
    stays = kept(run, "main")
    for key in table["key"].to_pylist()[:3]:
        found = explain_row(run, key, search_ratio=False)
        loss = dict(zip(table["key"].to_pylist(), table["loss"].to_pylist(), strict=True))
        below = 100 * np.mean(np.array(list(loss.values())) < loss[key])
        assert found.scores["token_losses.loss"]["percentile"] == pytest.approx(below)
        assert bool(found.trainings["main"]) == stays[key]


@pytest.mark.parametrize("by_cluster", [False, True])
def test_a_mixture_saw_the_rows_that_it_drew(run, tmp_path, by_cluster):
    """As `choose_rows` draws them out of the tokens of all rows; what was held out was not trained on."""
    case, own = clustered_case(5, rows=ROWS, clusters=6), Run(str(shutil.copytree(run.uri, tmp_path / "run")))
    tasks = [f"task {min(i % 7, 2)}" for i in range(ROWS)]
    tokens = own.noun("tokens", "all")
    tokens.begin({"stage": "tokenize", "config": {}})
    tokens.commit_part(0, pa.table({"key": case.keys[:80], "task": tasks[:80]}), rows_in=80)
    made = tokens.finish().fingerprint
    groups = [str(label) for label in case.labels] if by_cluster else tasks
    rows = {groups[0]: 2, groups[1]: 3}
    part = MixturePart(rows=rows, skip=1, clusters="main" if by_cluster else None)
    held_out = MixturePart(rows={"task 0": 9})
    config = {"mixture": [part.model_dump()], "held_out": [held_out.model_dump()], "mixture_seed": 3}
    model = own.noun("models", "mixed")
    model.begin(
        {
            "stage": "finetune",
            "config": {**config, "samples": "other", "epochs": 2.0, "batch_rows": 9},
            "inputs": {"tokens": [[made]]},
            "made_from": {"tokens/all": made},
        }
    )
    model.finish(metrics={"steps": 5})
    chosen = choose_rows(groups[:80], case.keys[:80], part, seed=3, where="")
    seen = [number for number, key in enumerate(case.keys) if epochs_over(own, key, "main")["mixed"] == 2.0]
    assert seen == chosen.tolist()
    assert epochs_over(own, case.keys[0], "other") == {}
    shutil.rmtree(tokens.folder)
    assert epochs_over(own, case.keys[0], "main") == {"mixed": None}


def test_a_refused_row_says_why_and_two_of_one_id_are_told_apart(tmp_path, ray_cluster):
    """Quarantine is searched too; duplicates are named by their keys and tasks."""
    turn = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [{"id": "x", "task": task, "conversations": turn} for task in ("one", "two")]
    rows.append({"id": "bad", "conversations": []})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = Run(str(tmp_path / "run"))
    ingest(run, make_config(IngestConfig, {"source": str(tmp_path / "rows.json")}))
    found = explain_row(run, "bad")
    assert found.refused is not None
    assert (found.refused["reason"], found.source["source_row"]) == ("missing_conversations", 2)
    with pytest.raises(UserError, match=r"2 rows have the id 'x'; .* \w{32}-0 \(of one\), \w{32}-1 \(of two\)"):
        find_row(run, "x")
    with pytest.raises(UserError, match="no row of samples/main has the key or the id 'y'"):
        find_row(run, "y")


def test_refused_rows_are_explained_where_an_ingest_gave_up(tmp_path, ray_cluster):
    """There are no samples then, and the refused are what is asked for; those of one id are told by where they lie."""
    rows = [{"id": name, "conversations": []} for name in ("bad", "twice", "twice")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = Run(str(tmp_path / "run"))
    with pytest.raises(UserError, match="could be used"):
        ingest(run, make_config(IngestConfig, {"source": str(tmp_path / "rows.json")}))
    assert (explain_row(run, "bad").refused or {})["reason"] == "missing_conversations"
    with pytest.raises(
        UserError, match=r"2 rows .* rows.json, row 1, was refused \(missing_conversations: .*row 2, was"
    ):
        find_row(run, "twice")
    with pytest.raises(UserError, match="no finished 'samples/main'. Run `raycurate ingest`"):
        find_row(run, "y")


@pytest.mark.parametrize(
    ("config", "file", "told"),
    [
        ({"format": "llava"}, "a.txt", "llava"),
        ({"format": "auto"}, "b/a.jsonl.gz", "jsonl"),
        ({"format": "auto"}, "rows", "its first bytes tell"),
        ({"format": "auto", "row_function": "own:rows"}, "a.parquet", "parquet, then own:rows"),
        ({"format": "auto", "sources": {"b": {"format": "webdataset"}}}, "b/a", "webdataset"),
        ({}, "made", None),
    ],
)
def test_the_reader_of_a_row_is_the_one_of_its_file(config, file, told):
    assert reader_of(config, file) == told


def test_nested_selections_differ_by_what_was_added(run, tmp_path):
    """Ratio 0.2 against 0.4 of the same draw: nothing is lost, the setting is named, tasks add up."""
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 0.4, "label": "more"}))
    found = diff_selections(f"{run.uri}:random", f"{run.uri}:more")
    assert (found.kept, found.both, found.settings) == ((18, 36), 18, {"ratio": (0.2, 0.4)})
    assert found.jaccard == 0.5
    assert found.reasons == ({}, {"not_drawn": 18})
    assert sum(b - a for a, b in found.tasks.values()) == 18
    assert not found.same
    assert diff_selections(f"{run.uri}:random", f"{run.uri}:random").same


def test_rows_that_one_side_does_not_have_are_counted_on_both_sides(run, tmp_path):
    """Two runs with no row in common: each side's kept rows are not there in the other."""
    other = Run(str(tmp_path / "run"))
    write_samples(other, [f"{i:032x}-0" for i in range(10)], ["t"] * 10)
    select(other, make_config(SelectConfig, {"method": "random", "ratio": 0.5}))
    assert diff_selections(f"{run.uri}:random", other.uri).reasons == ({"not there": 18}, {"not there": 5})


def test_clusters_are_compared_when_they_are_the_same(run):
    """Two temperatures of COINCIDE: rows per cluster from both tables."""
    hot = {"method": "coincide", "ratio": 0.2, "options": {"temperature": 5.0}, "label": "hot"}
    select(run, make_config(SelectConfig, hot))
    found = diff_selections(f"{run.uri}:coincide", f"{run.uri}:hot")
    tables = [run.noun("selection", label).read_table("clusters.parquet") for label in ("coincide", "hot")]
    counts = [dict(zip(t["cluster"].to_pylist(), t["kept"].to_pylist(), strict=True)) for t in tables]
    assert found.clusters == {
        str(cluster): (counts[0][cluster], counts[1][cluster])
        for cluster in sorted(counts[0], key=lambda c: (-abs(counts[0][c] - counts[1][c]), str(c)))
        if counts[0][cluster] != counts[1][cluster]
    }
    assert list(found.settings) == ["options"]


def test_rows_that_are_shown_are_a_stated_sample_of_those_asked_for(run):
    """Every filter holds, the count is of all of them, another seed shows others."""
    total, rows = chosen_rows(run, "coincide", Wanted(task="task 2", kept=False, limit=5))
    table = read_all(run.noun("selection", "coincide")).to_pylist()
    assert total == sum(row["task"] == "task 2" and not row["kept"] for row in table)
    assert len(rows) == 5
    assert all(row["task"] == "task 2" and not row["kept"] for row in rows)
    again = chosen_rows(run, "coincide", Wanted(task="task 2", kept=False, limit=total + 9))[1]
    assert [row["key"] for row in again[:5]] == [row["key"] for row in rows]
    other = chosen_rows(run, "coincide", Wanted(task="task 2", kept=False, limit=5, seed=1))[1]
    assert [row["key"] for row in other] != [row["key"] for row in rows]
    for wanted, told in (
        (Wanted(task="task 3"), "task 3"),
        (Wanted(reason="over_quotas"), "Did you mean 'over_quota'"),
        (Wanted(cluster=99), "no cluster 99; those of 'coincide' go from 0 to 5"),
    ):
        with pytest.raises(UserError, match=told):
            chosen_rows(run, "coincide", wanted)
    with pytest.raises(UserError, match="'random' has no clusters; leave cluster 1 out"):
        chosen_rows(run, "random", Wanted(cluster=1))


def test_commands_print_and_tell_by_their_exit_code(run):
    """Text and JSON; 0 for the same rows, 1 for others, nothing printed with --quiet."""
    ask = CliRunner().invoke
    shown = ask(main, ["explain", run.uri, "row 3", "--no-ratio"])
    assert shown.exit_code == 0, shown.output
    assert "selection  random:" in shown.output
    assert json.loads(ask(main, ["explain", run.uri, "row 3", "--json"]).output)["source"]["source_id"] == "row 3"
    same, other = f"{run.uri}:random", f"{run.uri}:stratified"
    assert ask(main, ["diff", same, same]).exit_code == 0
    done = ask(main, ["diff", same, other])
    assert (done.exit_code, "setting method: random -> stratified" in done.output) == (1, True)
    assert (
        ask(main, ["diff", same, other, "--quiet"]).output,
        json.loads(ask(main, ["diff", same, other, "--json"]).output)["same"],
    ) == ("", False)
    failed = ask(main, ["diff", same, f"{run.uri}:none"])
    assert (failed.exit_code, "has no finished selection 'none'" in failed.output) == (2, True)
    assert "3 of " in ask(main, ["show", run.uri, "--label", "random", "--limit", "3"]).output


def test_a_broken_file_is_an_error_and_no_difference(run, tmp_path):
    """With its traceback where that is asked for before the command; one that is cut or gone is named."""
    broken = Run(str(shutil.copytree(run.uri, tmp_path / "run")))
    part = Path(broken.noun("selection", "random").folder, "part-00000.parquet")
    asked = ["diff", f"{run.uri}:random", f"{broken.uri}:random"]
    size = part.stat().st_size
    part.write_bytes(b"junk")
    failed = CliRunner().invoke(main, asked)
    told = "'selection/random' is not whole: 1 of its files is gone or cut short, for example part-00000.parquet"
    assert (failed.exit_code, told in " ".join(failed.output.split())) == (2, True)
    assert "is not whole" in CliRunner().invoke(main, ["report", broken.uri, "--label", "random"]).output
    part.write_bytes(b"j" * size)
    failed = CliRunner().invoke(main, asked)
    assert (failed.exit_code, "ArrowInvalid" in failed.output) == (2, True)
    assert isinstance(CliRunner().invoke(main, ["--debug", *asked]).exception, pa.ArrowInvalid)


def test_text_of_the_data_cannot_drive_a_terminal(tmp_path, ray_cluster):
    """Markup and marks that turn the direction of text are shown as they are written."""
    text = "[red]\u202eevil"
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "a"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": "r", "conversations": turns}]))
    run = Run(str(tmp_path / "run"))
    ingest(run, make_config(IngestConfig, {"source": str(tmp_path / "rows.json")}))
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 1.0}))
    for command in (["explain", run.uri, "r"], ["show", run.uri]):
        shown = CliRunner().invoke(main, command).output
        assert "\u202e" not in shown
        assert "[red]" in shown
    refused = CliRunner().invoke(main, ["show", run.uri, "--task", "\u202eother"])
    assert (refused.exit_code, "\u202e" in refused.output, r"\u202eother" in refused.output) == (1, False, True)


def test_of_thousands_of_tasks_an_error_names_some():
    """And says how many more there are."""
    told = str(unknown_name("task", "t50", [f"task {i}" for i in range(2000)]))
    assert len(told) < 1000
    assert told.endswith("and 1,940 more")


def test_a_label_that_is_none_is_told_as_such(run):
    """Not as a run directory that is not there, which it could be a part of."""
    for words in (["report", run.uri, "--label", "../main"], ["show", run.uri, "--label", "a/b"]):
        assert "is not a plain name" in CliRunner().invoke(main, words).output


def test_looking_changes_nothing(run):
    """Files and their times are as before."""
    before = {path: path.stat().st_mtime_ns for path in Path(run.uri).rglob("*")}
    explain_row(run, "row 5")
    diff_selections(f"{run.uri}:random", f"{run.uri}:balanced")
    chosen_rows(run, "random", Wanted())
    assert {path: path.stat().st_mtime_ns for path in Path(run.uri).rglob("*")} == before


def test_a_marked_row_says_what_it_is_like(run, tmp_path):
    """Why it is marked and its other row, in the terminal and as JSON; rows that are not marked say nothing of it."""
    copied = Run(str(shutil.copytree(run.uri, tmp_path / "run")))
    first, second, third = sorted(kept(run, "random"))[:3]
    write_marks(copied, {second: "exact_copy"}, like=first)
    assert explain_row(copied, second).marks["dedup"]["like"] == first
    assert explain_row(copied, third).marks == {}
    told = CliRunner().invoke(main, ["explain", copied.uri, second, "--no-ratio"]).output
    assert f"dedup: exact_copy, like {first}" in " ".join(told.split())
    assert "its task:" in told
    assert explain_row(copied, first).copies == {"dedup": {"rows": 1, "keys": [second]}}
    told = CliRunner().invoke(main, ["explain", copied.uri, first, "--no-ratio"]).output
    assert f"dedup: 1 rows are marked as like this one: {second}" in " ".join(told.split())


def test_what_was_made_before_the_samples_changed_is_said_to_be_out_of_date(tmp_path):
    """Beside the row's image and its reader; the report says it too, with the command that makes it anew."""
    Image.new("RGB", (40, 30)).save(tmp_path / "shown.png")
    rows = [
        {
            "id": f"r{i}",
            "image": "shown.png",
            "conversations": [{"from": "human", "value": f"<image>\n{i}?"}, {"from": "gpt", "value": "a"}],
        }
        for i in range(8)
    ]
    (tmp_path / "first.json").write_text(json.dumps(rows[:5]))
    (tmp_path / "more.json").write_text(json.dumps(rows[5:]))
    run = Run(str(tmp_path / "run"))
    values = {"images": str(tmp_path), "format": "llava"}
    ingest(run, make_config(IngestConfig, {**values, "source": str(tmp_path / "first.json")}))
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 0.5}))
    assert explain_row(run, "r0").stale == {}
    rows_of = [row["key"] for row in chosen_rows(run, "main", Wanted(kept=False, limit=8))[1]]
    ingest(run, make_config(IngestConfig, {**values, "source": str(tmp_path / "more.json"), "append": True}))
    assert "cannot be told: 'selection/main'" in explain_row(run, rows_of[0]).selections["main"]["kept_from_ratio"]
    found = explain_row(run, "r0", search_ratio=False)
    assert found.source["reader"] == "llava"
    assert found.images[0].startswith("shown.png: PNG of 40 x 30, RGB, ")
    assert "'samples/main', which has grown since" in found.stale["selection/main"]
    assert "has grown since" in CliRunner().invoke(main, ["explain", run.uri, "r7", "--no-ratio"]).output
    page = build_report(run)
    assert "2 of 5 rows, chosen by random" in page, "those that there were then"
    assert "Out of date: &#39;selection/main&#39; was made from an earlier" in page
    assert "makes it again" in page
    assert found.stale["selection/main"].endswith(
        f"; `raycurate select {run.uri} --set method=random --set ratio=0.5` makes it again"
    )
    (tmp_path / "shown.png").unlink()
    assert "cannot be read" in explain_row(run, "r0", search_ratio=False).images[0]


def test_rows_of_samples_that_were_made_anew_are_left_out_of_a_report_and_an_error_to_show(run, tmp_path):
    """Fewer rows in other shards: the report says that it is out of date and shows the rows that it finds."""
    made = Run(str(tmp_path / "run"))
    shutil.copytree(run.uri, made.uri)
    keys = read_all(run.noun("samples"))["key"].to_pylist()
    write_samples(made, keys[:20], ["task 0"] * 20, shards=1)
    page = build_report(made, "coincide")
    assert "Out of date: " in page
    assert 0 < page.count('<li class="card">') <= 20
    with pytest.raises(UserError, match="not where they were in the samples: .* `raycurate extract "):
        chosen_rows(made, "coincide", Wanted(limit=90))


def test_neighbours_are_not_told_where_the_features_are_gone(run, tmp_path):
    """Nor is that said to be for their size."""
    made = Run(str(shutil.copytree(run.uri, tmp_path / "run")))
    shutil.rmtree(made.noun("features").folder)
    shown = CliRunner().invoke(main, ["explain", made.uri, "row 3", "--no-ratio"]).output
    assert "cosine to its centroid" in shown
    assert "the features are gone" in shown
    assert "too large" not in shown


def test_a_row_that_a_later_stage_refused_says_why(run, tmp_path):
    copied = Run(str(shutil.copytree(run.uri, tmp_path / "run")))
    key = sorted(kept(run, "random"))[0]
    row = {"key": key, "source_file": "made", "source_row": 0, "source_id": "x", "reason": "out_of_memory"}
    folder = Path(copied.noun("features").quarantine_folder)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{**row, "detail": "too long", "excerpt": ""}]), folder / "part-00000.parquet")
    assert explain_row(copied, key, search_ratio=False).rejected == {
        "features/main": {"reason": "out_of_memory", "detail": "too long"}
    }


def test_words_between_colons_are_printed_as_they_are():
    """A label such as `one` behind a run is no picture of a digit."""
    with out.capture() as printed:
        out.print(plain("in runs/mine:one: over_quota 53"), highlight=False)
    assert printed.get().strip() == "in runs/mine:one: over_quota 53"
