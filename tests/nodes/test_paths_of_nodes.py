"""On a cluster of several nodes each must see what the driver sees."""

from __future__ import annotations

import pytest

from tests.nodes.programs import output_of

pytestmark = pytest.mark.nodes


def test_a_path_that_a_node_does_not_see_is_told_with_the_node(tmp_path):
    """The run directory that all see is no error; an image root that the driver alone sees is one."""
    told = output_of("look_for_paths.py", tmp_path)["told"]
    assert told.startswith("the node ")
    assert "does not see images /proc/self/task/" in told
    assert "--images" in told
