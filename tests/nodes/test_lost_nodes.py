"""A node is killed under a stage: the stage finishes, its result is the undisturbed one, little is made again."""

from __future__ import annotations

import pytest

from tests.nodes.programs import output_of

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What `lose_nodes.py` saw."""
    return output_of("lose_nodes.py", tmp_path_factory.mktemp("nodes"))


@pytest.mark.parametrize("stage", ["extract", "score"])
def test_a_node_lost_under_a_pool_of_actors_costs_no_committed_row(found, stage):
    """What is made again is at most what was not committed when the node died."""
    assert found[stage]["same"]
    assert found[stage]["committed_parts_kept"]
    assert found[stage]["rows_made_again"] <= found[stage]["rows"] - found[stage]["rows_committed_before"]


def test_a_node_lost_in_cluster_costs_one_iteration(found):
    cluster = found["cluster"]
    assert cluster["same"]
    assert cluster["iterations_started"] <= cluster["iterations"] + 1


def test_a_node_lost_in_a_sweep_costs_the_trials_on_it(found):
    sweep = found["sweep"]
    assert sweep["same"]
    assert sweep["results_kept"]
    assert sweep["runs"] <= sweep["trials"] + sweep["at_once"]


def test_a_node_lost_in_finetune_costs_the_steps_since_the_last_checkpoint(found):
    finetune = found["finetune"]
    assert finetune["resumed_from"] % finetune["save_steps"] == 0
    assert finetune["resumed_from"] >= finetune["save_steps"]
    assert finetune["rows_seen"][0] == finetune["rows_seen"][1]
    assert finetune["largest_difference_of_losses"] < 1e-4
