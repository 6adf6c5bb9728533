"""What a stage tells of itself while it works: to Prometheus, and to a log store."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from raycurate.run import progress as module
from raycurate.run.log_format import JsonFormatter, wants_json
from raycurate.run.meters import TAGS
from raycurate.run.progress import Progress, per_second
from raycurate.run.store import Run

DASHBOARD = Path(__file__).parents[2] / "cluster_configs" / "grafana.json"


def exported(ray, run_id: str) -> dict[str, float]:
    """The metrics of a run at the metrics port of the node, by name and the tags beside run, stage and label."""
    node = ray.nodes()[0]
    text = urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10).read()
    found = {}
    for line in text.decode().splitlines():
        if line.startswith("ray_raycurate_") and f'run="{run_id}"' in line:
            name, tags, value = re.fullmatch(r"ray_raycurate_(\w+)\{(.*)\} (\S+)", line).groups()
            own = dict(re.findall(r'(unit|reason|stage|label)="([^"]*)"', tags))
            assert (own.pop("stage"), own.pop("label")) == ("extract", "main")
            found["/".join([name, *own.values()])] = float(value)
    return found


def test_counts_and_measures_reach_prometheus(ray_cluster, tmp_path):
    """Rows of two attempts add up, rejects by reason; a step back is not counted; the last measure stands."""
    run = Run(str(tmp_path))
    noun = run.noun("features")
    noun.begin({"stage": "extract"})
    for start in (0, 60):
        with Progress("extract", 100, noun=noun, done=start) as progress:
            progress.advance(40)
            progress.quarantined({"image_corrupt": 2, "no_answer": 1})
            progress.measure(kmeans_objective=0.25 + start, loss=1.5, tokens_per_second=90.0)
            progress.set(start)
    expected = {
        "units_total/rows": 80.0,
        "quarantined_total/image_corrupt": 4.0,
        "quarantined_total/no_answer": 2.0,
        "kmeans_objective": 60.25,
        "units_left/rows": 40.0,
    }
    deadline = time.monotonic() + 60
    found: dict[str, float] = {}
    while expected.items() - found.items() and time.monotonic() < deadline:
        time.sleep(0.5)
        found = exported(ray_cluster, run.id)
    assert expected.items() <= found.items(), found
    assert "units_per_second/rows" in found
    drawn = DASHBOARD.read_text()
    assert set(re.findall(r"ray_raycurate_(\w+)", drawn)) == {name.partition("/")[0] for name in found}


def test_the_dashboard_draws_every_panel_once_in_a_place_of_its_own():
    """By run, from the data source that is chosen, and grouped by tags that the metrics have."""
    board = json.loads(DASHBOARD.read_text())
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "run"]
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\{(.*?)\}", target["expr"])) == {'run=~"$run"'}
            by = re.findall(r"by \((.*?)\)", target["expr"])
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= set(by[0].split(", ")) <= {*TAGS, "unit", "reason"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_a_progress_line_as_json_carries_run_stage_and_numbers(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    run = Run(str(tmp_path))
    noun = run.noun("clusters", "second")
    noun.begin({"stage": "cluster"})
    with caplog.at_level(logging.INFO, "raycurate"), Progress("cluster", 10, noun=noun) as progress:
        progress.advance(4, 'near "twins"')
    line = JsonFormatter().format(caplog.records[-1])
    assert "\n" not in line
    value = json.loads(line)
    assert {name: value[name] for name in ("run", "stage", "label", "done", "total", "unit", "note", "level")} == {
        "run": run.id,
        "stage": "cluster",
        "label": "second",
        "done": 4,
        "total": 10,
        "unit": "rows",
        "note": 'near "twins"',
        "level": "INFO",
    }
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value["time"])


def test_a_rate_keeps_two_digits_however_slow():
    assert [per_second(rate) for rate in (1569.4, 10.0, 9.97, 0.0321)] == ["1,569/s", "10/s", "10/s", "0.032/s"]


def test_a_line_says_how_long_only_once_something_is_done(monkeypatch, caplog):
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, "raycurate"), Progress("probes", 14, "trials") as progress:
        progress.set(0)
        progress.set(7, "seven")
    first, second = (record.getMessage() for record in caplog.records[-2:])
    assert first == "probes: 0 of 14 trials"
    assert re.fullmatch(r"probes: 7 of 14 trials, [\d,]+/s, \d+ s left seven", second)


def test_an_error_as_json_keeps_its_traceback_in_one_line(monkeypatch):
    monkeypatch.setenv("RAYCURATE_LOG", "json")
    assert wants_json()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("raycurate", logging.ERROR, __file__, 1, "failed %d", (3,), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "failed 3"
    assert "ValueError: two" in json.loads(line)["traceback"]
