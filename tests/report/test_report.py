"""The report: numbers against naive ones, bounded and self-contained, harmless whatever the data holds."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score

from raycurate.charts.marks import Dot, Interval, TaskBar, cluster_map, interval_chart, task_chart
from raycurate.cli.main import main
from raycurate.config import IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.models.adapter import auto_layers
from raycurate.report import folder
from raycurate.report import page as pages
from raycurate.report.collect import ClusterFacts, agreement, cluster_facts, most_telling, summary_of, task_bars
from raycurate.report.folder import write_folder
from raycurate.report.gallery import Sizes, chosen_clusters, shelves_of, smaller
from raycurate.report.page import build_report, write_report
from raycurate.report.relevancy import relevancy_maps
from raycurate.report.relevancy_facts import AskedMaps, RelevancyMaps
from raycurate.report.rows_page import build_rows, write_rows
from raycurate.report.thumbnails import thumbnail
from raycurate.run.store import Noun, Run
from raycurate.samples.images import ImageLimits, ImageRoot
from raycurate.settings import make_config
from raycurate.stages.ingest import ingest
from raycurate.stages.select import select
from raycurate.views.diff import selection_at
from raycurate.views.rows import Wanted, chosen_rows
from tests.browser import CHROMIUM, browser
from tests.nouns import write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case

STORED = Path(__file__).parents[1] / "data" / "run_done.tar.xz"
CANARY = "<script>window.canary = 1; document.title = 'canary'</script>"
HOSTILE = (
    CANARY,
    '"><img src="http://example.org/x.png" onerror="window.canary=1">',
    "</style></title></textarea>{{ 7 * 7 }}<svg onload=window.canary=1>",
    "javascript:window.canary=1",
    "\u202etxet desrever\u2066",
    "&lt;b&gt; ' \" ` <a href=javascript:window.canary=1>x</a>",
)
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Until what watches the sizes of things was told."""
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def hostile(ray_cluster, tmp_path_factory) -> Run:
    """A run whose texts, tasks and ids want to be code; pictures with a script behind their last byte."""
    folder = tmp_path_factory.mktemp("hostile")
    for number in range(6):
        file = folder / f"{number}.png"
        Image.new("RGB", (200, 40), (40 * number, 9, 9)).save(file)
        file.write_bytes(file.read_bytes() + CANARY.encode())
    rows = [
        {
            "id": f"{i} {HOSTILE[i % 6]}",
            "image": f"{i % 6}.png",
            "task": f"t{i % 3} {HOSTILE[(0, 1, 4)[i % 3]]}",
            "conversations": [
                {"from": "human", "value": f"<image>\n{i} {HOSTILE[i % 6]}"},
                {"from": "gpt", "value": HOSTILE[-i % 6]},
            ],
        }
        for i in range(48)
    ]
    rows.append({"id": CANARY, "image": "none.png", "conversations": rows[0]["conversations"]})
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    run = Run(str(folder / "run"))
    values = {"source": str(folder / "rows.json"), "images": str(folder)}
    ingest(run, make_config(IngestConfig, values))
    keys = [key for part in run.noun("samples").iter_parts(["key"]) for key in part["key"].to_pylist()]
    case = clustered_case(2, rows=48, clusters=5)
    shards = run.noun("samples").require("test").shards
    write_features(run, keys, case.features, shards=shards, block_dim=case.block_dim)
    write_clusters(run, keys, case.features, case.labels, case.centroids, shards=shards)
    select(run, make_config(SelectConfig, {"method": "coincide", "ratio": 0.4}))
    select(run, make_config(SelectConfig, {"method": "random", "ratio": 0.4, "label": "random"}))
    return run


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("label", ["main", "random"])
def test_text_of_the_data_stays_text(hostile, label):
    """One script and one style, both ours; no attribute is a handler, no address leads out."""
    page = build_report(hostile, label)
    tags = Tags(page).found
    names = Counter(tag for tag, _ in tags)
    assert (names["script"], names["style"], names["iframe"], names["object"], names["link"]) == (1, 1, 0, 0, 0)
    for tag, attributes in tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href", "action", "xlink:href"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:image/webp;base64,")), value
    assert not {"\u202e", "\u2066"} & set(page), "in charts neither, which have the names of tasks"
    assert "49<svg" not in page
    assert {"main": "5 of 5 clusters. A sample", "random": "3 of 3 tasks, the largest. A sample"}[label] in page


def test_rows_that_were_asked_for_are_a_page_as_harmless(hostile, tmp_path):
    """The same rows as in the terminal, with their pictures; no script at all; a task that wants to be code is text."""
    task = f"t1 {HOSTILE[1]}"
    wanted = Wanted(task=task, kept=False, limit=4)
    total, rows = chosen_rows(hostile, "main", wanted)
    page = Path(write_rows(hostile, "main", wanted, str(tmp_path / "rows.html"))).read_text("utf-8")
    tags = Tags(page).found
    names = Counter(tag for tag, _ in tags)
    assert (names["script"], names["li"], names["img"]) == (0, len(rows), len(rows))
    assert all((attributes.get("src") or "data:image/webp").startswith("data:image/webp") for _, attributes in tags)
    assert f"{len(rows)} of {total} rows" in page
    assert "Dropped rows of t1" in page
    with pytest.raises(UserError, match="unknown task"):
        build_rows(hostile, "main", Wanted(task="none"))
    again = str(tmp_path / "again.html")
    asked = ["show", hostile.uri, "--task", task, "--dropped", "--limit", "4", "--html", again]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    assert Path(again).read_text("utf-8") == page
    assert CliRunner().invoke(main, [*asked, "--json"]).exit_code == 2


def test_pictures_are_made_anew(hostile):
    """What was behind the pixels of an image file is not in the page; none is larger than 96 pixels."""
    page = build_report(hostile)
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    assert len(pictures) > 20
    for data in map(base64.b64decode, pictures):
        assert b"canary" not in data
        assert max(Image.open(io.BytesIO(data)).size) <= 96


def test_a_picture_that_is_gone_or_broken_leaves_a_place(tmp_path):
    """No error: the text of the row is still shown."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    root, limits = ImageRoot(str(tmp_path)), ImageLimits()
    for name in ("gone.png", "broken.png"):
        assert thumbnail({"path": name, "data": None}, root, limits) is None


def test_the_file_stays_below_its_bound(hostile, monkeypatch):
    """The gallery gets smaller until the page fits, and the page says what it shows."""
    whole = build_report(hostile)
    assert "the first 6 kept and the first 6 dropped" in whole
    monkeypatch.setattr(pages, "MOST_BYTES", len(whole.encode()) - 1)
    small = build_report(hostile)
    assert len(small.encode()) < len(whole.encode())
    assert "the first 3 kept and the first 3 dropped" in small


@pytest.mark.parametrize("label", ["main", "random"])
def test_a_smaller_gallery_is_the_one_that_is_made_anew(hostile, label):
    """Cut out of the larger one, nothing read again: the same clusters or tasks, why, rows and pictures."""
    noun, _ = selection_at(f"{hostile.uri}:{label}")
    facts, tasks = cluster_facts(noun), [bar.task for bar in task_bars(noun)]
    whole = shelves_of(hostile, noun, facts, tasks, Sizes(4, 5))
    for sizes in (Sizes(2, 2), Sizes(1, 1)):
        assert smaller(whole, facts, sizes) == shelves_of(hostile, noun, facts, tasks, sizes)


def test_relevancy_maps_are_of_a_stated_sample_and_as_harmless(hostile, tmp_path):
    """Overlays of the rows with the smallest hashes, the same again; without them the page tells the command."""
    assert "--relevancy 6" in build_report(hostile)
    place = str(tmp_path / "maps.html")
    asked = ["report", hostile.uri, "--out", place, "--relevancy", "2", "--relevancy-model", "tiny", "--seed", "3"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    page = Path(place).read_text("utf-8")
    assert "--relevancy 6" not in page
    assert "hash of their key (seed 3)" in page
    tags = Tags(page[page.index('<section id="relevancy"') : page.index('<section id="bought"')]).found
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 2 * (1 + len(auto_layers(6)) + 2)
    assert all(attributes["src"].startswith("data:image/webp;base64,") for attributes in pictures)
    assert all(attributes["alt"] for attributes in pictures)
    maps = relevancy_maps(hostile, "main", AskedMaps(2, "tiny", 3))
    assert maps.not_followed == {}
    told = build_report(hostile, maps=replace(maps, not_followed={"a reason": 2}))
    assert "Without a map through the tower, as a reason: 2." in told
    assert all(each.picture in page for row in maps.rows for each in row.maps)
    with pytest.raises(UserError, match="no features that name a model"):
        relevancy_maps(hostile, "main", AskedMaps(2))
    assert CliRunner().invoke(main, ["report", hostile.uri, "--relevancy-model", "tiny"]).exit_code == 2


def test_relevancy_asks_the_model_of_the_features_that_the_selection_was_made_of(tmp_path, monkeypatch):
    """Whatever other features there are; without any of its own those of its samples."""
    run = Run(str(tmp_path / "run"))
    write_samples(run, [f"{i:032x}-0" for i in range(2)], ["t", "t"])

    def made(noun: Noun, config: dict, *parents: Noun) -> Noun:
        inputs = {f"{each.noun}/{each.label}": each.require("x").fingerprint for each in parents}
        noun.begin({"stage": noun.noun, "config": {"samples": "main", **config}, "made_from": inputs})
        noun.commit_part(0, pa.table({"key": ["a"]}), rows_in=1)
        noun.finish(metrics={})
        return noun

    made(run.noun("features", "another"), {"model": "another"})
    own = made(run.noun("features", "main"), {"model": "its own"})
    made(run.noun("selection", "main"), {}, made(run.noun("clusters", "main"), {}, own))
    made(run.noun("selection", "random"), {}, run.noun("samples"))
    monkeypatch.setattr("raycurate.report.relevancy._rows_with_pictures", lambda *_: [])
    monkeypatch.setattr("raycurate.report.relevancy.load_vlm", lambda model, **_: pytest.fail(model))
    for label, model in (("main", "its own"), ("random", "another")):
        with pytest.raises(pytest.fail.Exception, match=model):
            relevancy_maps(run, label, AskedMaps(1))


def test_a_folder_has_pages_of_more_rows(hostile, tmp_path, monkeypatch):
    """Every row of a shown cluster once, in pages that the index links to; as harmless as the one file."""
    monkeypatch.setattr(folder, "PAGE_ROWS", 3)
    asked = ["report", hostile.uri, "--folder", str(tmp_path / "pages"), "--rows", "1"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    pages_of = {path.name: path.read_text("utf-8") for path in (tmp_path / "pages").iterdir()}
    index = pages_of.pop("index.html")
    linked = re.findall(r'href="(cluster-\d+-(?:kept|dropped)-\d+\.html)"', index)
    assert sorted(linked) == sorted(pages_of)
    assert "the first 1 kept and the first 1 dropped" in index
    assert sum(page.count('<li class="card">') for page in pages_of.values()) == 48
    for page in pages_of.values():
        tags = Tags(page).found
        assert not any(tag in ("script", "iframe", "object", "link") for tag, _ in tags)
        assert not any(name.startswith("on") or name == "style" for _, each in tags for name in each)
        for value in (each.get(name) or "" for _, each in tags for name in ("src", "href")):
            local = value.split("#")[0] in {"index.html", *pages_of}
            assert value == "" or local or value.startswith("data:image/webp;base64,"), value
    assert CliRunner().invoke(main, [*asked, "--out", "x.html"]).exit_code == 2


def test_the_same_run_gives_the_same_report(hostile, tmp_path):
    """Bit for bit; another seed draws other clusters or rows."""
    assert build_report(hostile) == build_report(hostile)
    place = write_report(hostile, "random", str(tmp_path / "r.html"))
    assert Path(place).read_text("utf-8") == build_report(hostile, "random")
    assert build_report(hostile, "random", Sizes(seed=1)) != build_report(hostile, "random")


def test_a_finished_run_shows_all_of_its_parts(tmp_path):
    """Scoreboard, quarantine and times are there; a label that is not names those that are."""
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path)
    run = Run(str(tmp_path / "run"))
    page = build_report(run)
    for text in ("scoreboard/main", "12 of 24 rows, chosen by coincide", "No row was refused", "features/main"):
        assert text in page
    assert "features/mean_token" not in page, "it was made from other features"
    with pytest.raises(UserError, match="no finished selection 'other'; there are main, random-s0"):
        build_report(run, "other")


def test_purity_and_nmi_are_the_known_ones():
    """Against scikit-learn, and by counting."""
    rng = np.random.default_rng(3)
    cluster_N, task_N = rng.integers(0, 7, 400), rng.integers(0, 4, 400)
    counts = Counter(zip(cluster_N.tolist(), [f"t{t}" for t in task_N], strict=True))
    found = agreement(counts)
    expected = normalized_mutual_info_score(task_N, cluster_N, average_method="geometric")
    assert found.nmi == pytest.approx(expected)
    assert found.purity == sum(np.bincount(task_N[cluster_N == k]).max() for k in range(7)) / 400
    assert agreement(Counter({(0, "a"): 5})).nmi == 0.0


def test_every_kind_of_cluster_is_shown_once():
    """Largest first, then by the numbers that there are, then drawn ones; a method without numbers has no such kind."""
    facts = [ClusterFacts(k, 100 - k, k, k, k / 10, 1.0 / (k + 1), "") for k in range(20)]
    shown = chosen_clusters(facts, Sizes(per_kind=2))
    assert list(shown)[:4] == [0, 1, 19, 18]
    assert len(shown) == 10
    bare = [ClusterFacts(k, 5, 1, None, None, None, "") for k in range(20)]
    assert set(chosen_clusters(bare, Sizes(per_kind=2)).values()) == {
        "among the largest",
        "lost most of its rows",
        "drawn",
    }


def test_charts_hold_for_empty_tasks_one_cluster_and_missing_intervals():
    """No share, no row, no interval, one point: drawn without an error, with their numbers in words."""
    chart = task_chart([TaskBar("a<b", 10, 0, 2.0), TaskBar("c", 10, 10, 0.0), TaskBar("d", 9, 9, 0.1, "cap")])
    assert "a&lt;b: 0 of 10 rows, 0.00 of its share 2" in chart
    assert "(cap)" in chart
    assert "cluster 4: 0 of 3 rows kept (0%)" in cluster_map([Dot(4, 0.0, 0.0, 3, 0, "x")], 0.1, frozenset({4}))
    assert cluster_map([], 0.1) == interval_chart([], "x") == ""
    assert "+1.0 %, no interval" in interval_chart([Interval("m", 1.0, None, None)], "stratified")


def test_the_table_of_many_tasks_has_the_largest_and_those_furthest_from_their_share():
    """So many of them; few tasks are all there."""
    bars = [TaskBar(f"t{i}", 1000 - i, 5, 5.0) for i in range(900)]
    bars[700] = TaskBar("starved", 300, 0, 150.0)
    told = most_telling(bars, 10)
    assert [bar.task for bar in told[:6]] == ["t0", "t1", "t2", "t3", "t4", "starved"]
    assert len(told) == 10
    assert most_telling(bars[:10], 10) == bars[:10]


def test_a_hundred_thousand_tasks_of_long_names_fit(hostile, monkeypatch):
    """Below the bound of the file with room for the gallery; what the table leaves out is counted."""
    bars = [TaskBar(f"{i} {'long ' * 100}", 100_000 - i, i % 7, 3.0) for i in range(100_000)]
    own = task_bars(hostile.noun("selection", "main"))
    monkeypatch.setattr(pages, "task_bars", lambda noun: bars + own)
    page = build_report(hostile)
    assert len(page.encode()) < pages.MOST_BYTES // 10
    assert "500 of 100,003 tasks, 99,503 are left out" in page
    assert "the first 6 kept and the first 6 dropped" in page


def test_a_price_gives_the_money_beside_the_time(hostile):
    """Of what the selection was made from; what was made beside it costs nothing."""
    behind = ["samples/main", "features/main", "clusters/main", "ranking/main", "selection/main"]
    noun, manifest = selection_at(hostile.uri)
    summary = summary_of(hostile, noun, manifest)
    assert [name for name, _ in summary.seconds] == behind
    seconds = sum(hostile.noun(*name.split("/")).manifest().seconds for name in behind)
    assert f"costs {seconds * 7200 / 3600:,.2f} at 7,200.00 an hour" in build_report(hostile, price_per_hour=7200.0)
    assert "an hour" not in build_report(hostile)
    assert "at 0.0025 an hour" in build_report(hostile, price_per_hour=0.0025)
    for price in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="it must be a number above 0"):
            build_report(hostile, price_per_hour=price)


def test_a_folder_loses_the_pages_of_an_earlier_report_and_nothing_else(hostile, tmp_path):
    """And a file is no folder, and the run directory none of pages."""
    place = tmp_path / "pages"
    place.mkdir()
    for name in ("cluster-77-kept-3.html", "task-9-dropped-1.html", "mine.html", "notes.txt"):
        (place / name).write_text("old")
    write_folder(hostile, "main", str(place), Sizes())
    left = {path.name for path in place.iterdir() if path.read_text() == "old"}
    assert left == {"mine.html", "notes.txt"}
    with pytest.raises(UserError, match="is a file; give a new folder"):
        write_folder(hostile, "main", str(place / "notes.txt"), Sizes())
    with pytest.raises(UserError, match="is the run directory"):
        write_folder(hostile, "main", hostile.uri, Sizes())
    assert write_folder(hostile, "main", str(place), Sizes()).endswith("index.html")
    (place / "index.html").write_text("a page of mine")
    with pytest.raises(UserError, match=r"an index.html that is no report"):
        write_folder(hostile, "main", str(place), Sizes())
    assert (place / "index.html").read_text() == "a page of mine"


def test_what_is_gone_or_was_not_made_is_said_in_its_place(hostile, tmp_path):
    """A map without centroids, a selection without clusters, relevancy of rows without pictures: no empty section."""
    made = Run(str(shutil.copytree(hostile.uri, tmp_path / "run")))
    assert "The centroids are gone" not in build_report(made)
    assert "--label mapped" not in build_report(made)
    shutil.rmtree(made.noun("clusters").folder)
    page = build_report(made, maps=RelevancyMaps("tiny", 0))
    assert "The centroids are gone. <code>raycurate cluster</code>" in page
    assert "No row with a picture that can be read is among those" in page
    assert f"raycurate select {made.uri} --method balanced --label mapped" in build_report(made, "random")


def test_a_page_is_written_over_nothing_but_a_page(hostile, tmp_path, monkeypatch):
    """Another file, a folder and what is no file are refused before any work; a page and an empty file are not."""
    mine, kind = tmp_path / "mine.json", tmp_path / "pipe"
    mine.write_text("{}")
    os.mkfifo(kind)
    monkeypatch.setattr("raycurate.report.relevancy.relevancy_maps", lambda *_: pytest.fail("a model was asked"))
    for place, why in ((mine, "no page of raycurate"), (tmp_path, "is a folder"), (kind, "no page of raycurate")):
        for words in (["report", "--relevancy", "1", "--out"], ["show", "--html"]):
            result = CliRunner().invoke(main, [words[0], hostile.uri, *words[1:], str(place)])
            assert result.exit_code == 1
            assert why in " ".join(result.output.split())
    asked = ["report", hostile.uri, "--relevancy", "1", "--out", str(tmp_path / "r.html"), "--price-per-hour", "-1"]
    assert "a number above 0" in CliRunner().invoke(main, asked).output
    asked = ["report", hostile.uri, "--relevancy", "1", "--folder", str(mine)]
    assert "is a file" in CliRunner().invoke(main, asked).output
    assert mine.read_text() == "{}"
    page = tmp_path / "page.html"
    page.touch()
    write_report(hostile, "random", str(page))
    write_rows(hostile, "main", Wanted(limit=1), str(page))
    assert "1 of 48 rows" in page.read_text("utf-8")


@needs_browser
def test_in_a_browser_nothing_runs_nothing_is_asked_for_and_search_works(hostile, tmp_path):
    """Zero requests beside the file, an empty console, no canary; pictures at three widths, light and dark."""
    place = Path(write_report(hostile, out=str(tmp_path / "report.html")))
    pictures = Path(os.environ.get("RAYCURATE_PICTURES", tmp_path))
    with browser() as page:
        for width in (380, 1280, 1600):
            for dark in (False, True):
                page.open(place, width=width, dark=dark)
                assert page.value("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
                page.picture(pictures / f"report-{width}-{'dark' if dark else 'light'}.png")
        page.open(place, width=380)
        page.value("for (const each of document.querySelectorAll('details')) each.open = true")
        page.ask("Runtime.evaluate", expression=TWO_FRAMES, awaitPromise=True)
        stuck = "(n) => n.scrollWidth > n.clientWidth && n.tabIndex < 0"
        assert page.value("[...document.querySelectorAll('.scroll')].some((n) => n.tabIndex === 0)")
        assert not page.value(f"[...document.querySelectorAll('.scroll')].some({stuck})"), "moved by keys as well"
        assert page.value("document.querySelectorAll('svg[role=group] a').length") > 0
        assert page.value("document.querySelectorAll('svg[role=img] a').length") == 0, "where nobody would find them"
        assert page.value("typeof window.canary") == "undefined"
        assert "canary" not in page.value("document.title")
        shelves = page.value("document.querySelectorAll('.shelf').length")
        page.write_into("search", "wordthatisnowhere")
        assert page.value("document.querySelectorAll('.shelf:not([hidden])').length") == 0
        assert page.value("document.getElementById('found').textContent") == f"0 of {shelves} shown"
        assert page.value("document.querySelectorAll('#map .wide circle title').length") == 5
        assert {address.split(":")[0] for address in page.requests} <= {"file", "data"}
        assert len({address for address in page.requests if address.startswith("file:")}) == 1
        assert page.messages == []


@needs_browser
def test_pages_of_a_folder_are_asked_for_when_they_are_opened(hostile, tmp_path):
    """The index alone at first; a link opens one page more, without scripts or messages, and leads back."""
    place = Path(write_folder(hostile, "main", str(tmp_path / "pages"), Sizes(per_side=1)))
    with browser() as page:
        page.open(place)
        assert {address.rsplit("/", 1)[1] for address in page.requests if address.startswith("file:")} == {"index.html"}
        first = page.value("document.querySelector('.shelf a[href$=\".html\"]').getAttribute('href')")
        page.open(place.parent / first)
        assert page.value("document.querySelectorAll('.card').length") > 0
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.value("document.querySelector('nav a').getAttribute('href')").startswith("index.html#cluster-")
        assert page.value("typeof window.canary") == "undefined"
        assert {address.split(":")[0] for address in page.requests} <= {"file", "data"}
        assert page.messages == []


@needs_browser
def test_the_policy_of_the_page_stops_a_script_that_got_in(hostile, tmp_path):
    """Were a text ever unescaped: the browser refuses the script and the picture from elsewhere."""
    page_text = build_report(hostile).replace("</main>", f'{CANARY}<img src="http://127.0.0.1:9/x.png"></main>')
    (tmp_path / "broken.html").write_text(page_text, encoding="utf-8")
    with browser() as page:
        page.open(tmp_path / "broken.html")
        assert page.value("typeof window.canary") == "undefined"
        assert any("Content Security Policy" in message for message in page.messages)
