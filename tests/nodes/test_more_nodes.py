"""The same answer on one, two and four nodes, with work on each; a pool that grows and shrinks with its cluster."""

from __future__ import annotations

import pytest

from tests.nodes.programs import output_of

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> dict:
    """What `grow_nodes.py` saw."""
    return output_of("grow_nodes.py", tmp_path_factory.mktemp("grown"))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_features_and_clusters_are_the_same_and_every_node_has_a_share(grown, count):
    found = grown[f"curate {count}"]
    assert found["same_features"]
    assert found["same_clusters"]
    for stage in ("extract", "cluster"):
        assert len(found[stage]) == count
        assert sum(found[stage].values()) == 240
        assert min(found[stage].values()) > 0


@pytest.mark.parametrize("count", [2, 4])
def test_a_training_on_several_nodes_has_the_losses_of_one(grown, count):
    one, several = grown["train 1"], grown[f"train {count}"]
    assert several["nodes"] == count
    assert len(several["losses"]) == len(one["losses"]) > 5
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-3)


def test_zero3_on_two_nodes_has_the_losses_of_one(grown):
    one, two = grown["zero3 1"], grown["zero3 2"]
    assert (one["nodes"], two["nodes"]) == (1, 2)
    assert len(one["losses"]) > 5
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-3)
    assert one["losses"] == pytest.approx(grown["train 1"]["losses"], abs=1e-3)


def test_a_pool_grows_with_an_autoscaling_cluster_and_gives_its_nodes_back(tmp_path):
    """From no worker node to two, and to none again; the driver asks for nothing by itself."""
    found = output_of("autoscale.py", tmp_path)
    assert found["before"] == 0
    assert found["most"] == 2
    assert found["after"] == 0
    assert sum(found["rows_by_node"].values()) == found["rows"]
