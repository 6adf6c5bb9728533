"""`doctor --cluster` asks every node."""

from __future__ import annotations

import pytest

from tests.nodes.programs import output_of

pytestmark = pytest.mark.nodes


def test_a_node_with_another_version_of_a_package_is_named(tmp_path):
    """Three machines, three clocks; one has Ray twice and differs from the driver, nothing is left in the run."""
    found = output_of("ask_nodes.py", tmp_path)["found"]
    assert sum(each["check"] == "clock" for each in found) == 3
    told = [each for each in found if each["state"] == "fail"]
    assert {each["check"] for each in told} == {"packages", "same everywhere"}
    assert all("2.9.0" in each["found"] for each in told)
    assert not list((tmp_path / "run").iterdir())
