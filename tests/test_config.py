"""Configs: validated, explained, overridable; execution settings stay out of fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycurate.config import ClusterConfig, ExtractConfig, IngestConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.evaluation.config import CompareConfig, EvaluateConfig
from raycurate.recipe import load_recipe
from raycurate.settings import make_config

RECIPES = Path(__file__).parent.parent / "jobs" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path):
    """Recipes load and name a run."""
    assert load_recipe(path).run


def test_overrides_win_over_the_file():
    """`--set` changes one field and is parsed as YAML."""
    path = RECIPES / "llava665k_coincide.yaml"
    recipe = load_recipe(path, ["select.ratio=0.1", "select.options.temperature=0.05", "extract.layers=[1, 2]"])
    assert recipe.select.ratio == 0.1
    assert recipe.select.options["temperature"] == 0.05
    assert recipe.extract.layers == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("select.ratio=1.5", r"select.ratio: Input should be less than or equal to 1 \(got 1.5\)"),
        ("select.ration=0.1", "unknown setting 'ration'. Did you mean 'ratio'"),
        ("cluster.clusters=0", "cluster.clusters: .*greater than or equal to 1"),
        ("ratio", "not of the form"),
        ("run.x=1", "'run' is a value, not a section"),
    ],
)
def test_wrong_settings_are_explained(override, message):
    """The error has the path, the value and what is allowed."""
    with pytest.raises(UserError, match=message):
        load_recipe(RECIPES / "llava665k_coincide.yaml", [override])


def test_a_missing_or_broken_file_is_one_message(tmp_path):
    """No traceback for a file that is not there or not YAML."""
    with pytest.raises(UserError, match="cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2", encoding="utf-8")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(broken)


def test_execution_settings_do_not_determine():
    """Workers, caches and labels leave the fingerprint alone; the seed does not."""
    one = make_config(ClusterConfig, {"clusters": 5, "workers": 1, "cache_gb": 0.5, "label": "a"})
    two = make_config(ClusterConfig, {"clusters": 5, "workers": 3, "cache_gb": 2.0, "label": "b"})
    other = make_config(ClusterConfig, {"clusters": 5, "seed": 7})
    assert one.determining() == two.determining() != other.determining()


def test_batch_shape_determines():
    """What changes the rounding of a forward pass is part of the fingerprint."""
    small = make_config(ExtractConfig, {"batch_tokens": 1024})
    assert small.determining() != make_config(ExtractConfig, {}).determining()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ExtractConfig, {"layers": ["foo", "1"]}, r"layers: Input should be 'auto' or a valid integer.*\(got "),
        (IngestConfig, {"source": "a", "hash_range": [0.5, 0.1]}, r"hash_range \[0.5, 0.1\] must ascend"),
        (SelectConfig, {"ratio": float("nan")}, r"ratio: Input should be a finite number \(got nan\)"),
        (SelectConfig, {"seed": -1}, r"seed: Input should be greater than or equal to 0 \(got -1\)"),
        (SelectConfig, {"seed": 1 << 40}, "seed: Input should be less than 4294967296"),
        (CompareConfig, {"seeds": ["x"]}, "seeds.0: Input should be a valid integer"),
        (ClusterConfig, {}, "^clusters: is required$"),
        (EvaluateConfig, {"model": "tiny"}, "^give either data "),
    ],
)
def test_every_wrong_setting_is_one_readable_part(kind, values, message):
    """No union of types, no 'Value error', no empty name of a field."""
    with pytest.raises(UserError, match=message) as caught:
        make_config(kind, values)
    assert "Value error" not in str(caught.value)
    assert "[int, ...]" not in str(caught.value)
    assert ";" not in str(caught.value)


def test_a_methods_options_are_checked_when_a_recipe_is_read(tmp_path):
    """Not after hours of extraction; the methods that have the option are named."""
    (tmp_path / "recipe.yaml").write_text("run: r\nselect: {method: el2n, options: {temperature: 0.1}}\n")
    with pytest.raises(UserError, match="select: unknown option.*Methods that have it: balanced, coincide"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_recipe_may_hold_any_sections(tmp_path):
    """What a run directory has need not be made again; `ingest` and `cluster` together imply what lies between."""
    (tmp_path / "a.yaml").write_text("run: r\ncompare: {methods: [random]}\n")
    recipe = load_recipe(tmp_path / "a.yaml")
    assert recipe.section("compare").methods == ("random",)
    assert all(recipe.section(name) is None for name in ("ingest", "extract", "cluster", "select"))
    (tmp_path / "b.yaml").write_text("run: r\ningest: {source: a.json}\ncluster: {clusters: 3}\n")
    implied = load_recipe(tmp_path / "b.yaml")
    assert all(implied.section(name) is not None for name in ("extract", "rank", "select"))
