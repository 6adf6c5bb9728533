"""A node that does not see the driver's paths is named, with what to do."""

from __future__ import annotations

import os

import pytest

from raycurate.config import ExtractConfig, IngestConfig
from raycurate.node_paths import missing_here, paths_of
from raycurate.run.store import Run
from raycurate.settings import make_config


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path / "run"))


def test_paths_are_those_of_the_drivers_disk_that_are_there(tmp_path):
    """Not names of the hub, URIs, globs, or what is missing for the driver as well."""
    here = str(tmp_path)
    assert paths_of(make_config(ExtractConfig, {"model": "tiny", "images": here})) == {"images": here}
    assert paths_of(make_config(ExtractConfig, {"model": "org/name", "images": "s3://a/b"})) == {}
    several = paths_of(make_config(ExtractConfig, {"images": f"{here}:/none:{here}/.."}))
    assert sorted(several.values()) == sorted([here, str(tmp_path.parent)])
    assert paths_of(make_config(IngestConfig, {"source": f"{here}/*.json", "images": f"{here}/none"})) == {}


def test_a_node_has_to_see_the_very_same_run(run, tmp_path):
    """A folder of the same name that is another run, or none, is not it."""
    own = run.id
    assert missing_here(run.uri, own, {"images": str(tmp_path)}) == []
    assert missing_here(run.uri, "another", {}) == [("run", run.uri)]
    assert missing_here(str(tmp_path / "none"), own, {"images": "/none"}) == [
        ("run", str(tmp_path / "none")),
        ("images", "/none"),
    ]
    os.remove(f"{run.uri}/run.json")
    assert missing_here(run.uri, own, {}) == [("run", run.uri)]
