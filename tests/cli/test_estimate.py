"""`raycurate estimate` on recipes, cluster files and wrong input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from raycurate.cli.main import main
from raycurate.config import IngestConfig
from raycurate.estimate.sizes import size_table
from raycurate.run.store import Run
from raycurate.stages.ingest import ingest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "jobs" / "recipes"


@pytest.fixture
def data(tmp_path):
    """A source of 30 rows of one image, as settings of a recipe."""
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Black."}]
    rows = [{"id": str(n), "image": "0.png", "task": f"t{n % 3}", "conversations": turns} for n in range(30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def ask(*arguments):
    done = CliRunner().invoke(main, ["estimate", *map(str, arguments)])
    return done.exit_code, done.output


def settings(data, *sections):
    given = ["--set", "cluster.clusters=10"]
    for section in sections:
        given += ["--set", f"{section}.source={data}/rows.json", "--set", f"{section}.images={data}"]
    return given


def stages(output):
    return {each["stage"]: each for each in json.loads(output)["stages"]}


def test_every_stage_of_the_demos_recipe_has_seconds(data):
    code, output = ask(RECIPES / "demo.yaml", *settings(data, "ingest", "test"), "--json")
    found = stages(output)
    assert code == 0
    assert list(found) == ["ingest", "extract", "cluster", "rank", "select", "export", "test", "compare"]
    assert all(each["seconds"] > 0 for each in found.values())
    assert json.loads(output)["seconds"] == pytest.approx(sum(each["seconds"] for each in found.values()), abs=0.01)


def test_a_cluster_and_prices_give_money(data):
    prices = ["--price", "cpu=2", "--price", "gpu_spot=1", "--price", "m6i.2xlarge=0.5"]
    recipe = [RECIPES / "llava665k_coincide.yaml", *settings(data, "ingest"), "--set", "ingest.task_map=null"]
    code, output = ask(*recipe, "--cluster", ROOT / "cluster_configs" / "aws.yaml", *prices, "--json")
    found = json.loads(output)
    assert code == 0
    extract = stages(output)["extract"]
    assert extract["nodes"] == {"cpu": 4, "gpu_spot": 15}
    assert extract["cost"] == pytest.approx((4 * 2 + 15 * 1) * extract["seconds"] / 3600, abs=1e-3)
    assert found["cost"] > 0
    assert any("sizes as published" in note for note in extract["notes"])


def test_people_get_a_table(data):
    code, output = ask(RECIPES / "demo.yaml", *settings(data, "ingest", "test"))
    assert code == 0
    assert "extract" in output
    assert "in all; rates: stated defaults" in output


def test_a_model_that_is_not_here_leaves_its_stages_without_seconds(data):
    given = ["--set", "extract.model=nobody/nothing", "--set", "compare=null"]
    code, output = ask(RECIPES / "demo.yaml", *settings(data, "ingest", "test"), *given, "--json")
    assert code == 0
    assert stages(output)["extract"]["seconds"] is None
    assert "cannot be read here" in stages(output)["extract"]["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.yaml"], "no run directory"),
        ([RECIPES / "demo.yaml", "--card", "H101"], "unknown card"),
        ([RECIPES / "demo.yaml", "--card", "gpu=H100"], "needs --cluster FILE"),
        ([RECIPES / "demo.yaml", "--price", "machine=x"], "NAME=PRICE"),
        ([RECIPES / "demo.yaml", "--rates", "nothing.json"], "cannot read the rates"),
        ([RECIPES / "demo.yaml", "--rates", "a", "--calibrate", "b"], "both given"),
        ([RECIPES / "demo.yaml", "--calibrate", "/not/here/rates.json"], "there is no folder"),
        ([RECIPES / "demo.yaml", "--calibrate", RECIPES], "name the file for the rates"),
        ([ROOT / "tests" / "data" / "run_done.tar.xz"], "is not valid YAML"),
    ],
)
def test_wrong_input_is_one_readable_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = ask(*arguments)
    assert code == 1
    assert told in " ".join(output.split())


def test_more_clusters_than_rows_have_no_seconds(data):
    given = ["--set", "cluster.clusters=31", "--set", "compare=null"]
    _, output = ask(RECIPES / "demo.yaml", *settings(data, "ingest", "test"), *given, "--json")
    assert "only 30 rows to cluster" in stages(output)["cluster"]["notes"][0]


def test_a_recipe_that_ingests_nothing_goes_by_what_its_run_has(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "What?", "answer": "That."}\n' * 12, encoding="utf-8")
    ingest(Run(str(tmp_path / "run")), IngestConfig(source=str(tmp_path / "rows.jsonl")))
    (tmp_path / "recipe.yaml").write_text(
        f"run: {tmp_path}/run\nextract: {{model: tiny}}\ncluster: {{clusters: 3}}\n", encoding="utf-8"
    )
    code, output = ask(tmp_path / "recipe.yaml", "--json")
    assert code == 0
    assert [(each["rows"], each["seconds"] > 0) for each in stages(output).values()] == [(12, True), (12, True)]


def test_a_recipe_to_be_filled_in_needs_its_data_and_no_bucket(data):
    open_places = ["--set", "run=s3://FILL_IN/run", "--set", "export.out=s3://FILL_IN/coreset.json"]
    given = [*open_places, "--set", "compare=null"]
    code, output = ask(RECIPES / "demo.yaml", *settings(data, "ingest", "test"), *given)
    assert (code, "in all" in output) == (0, True)
    code, output = ask(RECIPES / "demo.yaml", *given, "--set", "ingest.source=gs://FILL_IN/rows.json")
    assert code == 1
    assert "the recipe still has FILL_IN in ingest.source" in " ".join(output.split())


def test_the_table_of_sizes_in_the_documentation_is_the_formulas():
    assert size_table() in (ROOT / "cluster_configs" / "README.md").read_text(encoding="utf-8")


def test_a_recipe_of_which_nothing_is_known_is_an_error(data):
    """No source: nothing follows from it. With one, a stage that is not known is counted."""
    code, output = ask(
        RECIPES / "demo.yaml", "--set", "ingest.source=nowhere.json", "--set", "test.source=nowhere.json"
    )
    assert code == 1
    assert "nothing of" in output
    assert "does not exist. Check the path" in " ".join(output.split())
    recipe = data / "one.yaml"
    made = f"run: {data}/run\ningest: {{source: {data}/rows.json, images: {data}}}\n"
    recipe.write_text(made + "extract: {model: ./nowhere}\ncluster: {clusters: 2}\n")
    code, output = ask(recipe)
    assert code == 0
    assert re.search(r"for \d of \d stages; rates", output)
