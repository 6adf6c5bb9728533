"""Which passes stay in this process, and how one loader and one actor work there."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
import torch

from raycurate.config import ExtractConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine import pool_here
from raycurate.stages.engine.pool_here import is_small, lines_here


def _noun(run: Run, kind: str, rows: list[int]):
    noun = run.noun(kind)
    noun.begin({"stage": "none"})
    for shard, count in enumerate(rows):
        noun.commit_part(shard, pa.table({"key": [str(row) for row in range(count)]}), rows_in=count)
    return noun


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """Twelve rows in two shards, on a machine without a GPU."""
    monkeypatch.setattr(pool_here, "GPU_DEVICES", str(tmp_path / "none"))
    noun = _noun(Run(str(tmp_path)), "samples", [8, 4])
    noun.finish()
    return noun


def test_small_is_what_is_left_of_samples_that_are_few_enough_to_be_looked_at(samples, tmp_path, monkeypatch):
    """Records count whatever they were made from; of several nouns the one that lacks most."""
    config, run = make_config(ExtractConfig, {}), Run(str(tmp_path))
    begun, absent = _noun(run, "features", [8]), run.noun("features", "other")
    monkeypatch.setattr(pool_here, "ROWS_HERE", 4)
    assert is_small(samples, [begun], config)
    assert not is_small(samples, [absent], config)
    assert not is_small(samples, [begun, absent], config)
    monkeypatch.setattr(pool_here, "ROWS_LOOKED_AT", 11)
    assert not is_small(samples, [begun], config)
    assert is_small(run.noun("samples", "absent"), [begun], config)


@pytest.mark.parametrize("settings", [{"gpus_per_actor": 1}, {"nodes": {"market": "spot"}}])
def test_what_asks_for_a_card_or_for_certain_nodes_is_not_made_here(samples, tmp_path, settings):
    assert not is_small(samples, [Run(str(tmp_path)).noun("features")], make_config(ExtractConfig, settings))


def test_a_machine_with_a_card_is_left_to_a_session(samples, tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(pool_here, "GPU_DEVICES", str(tmp_path / "nvidia[0-9]*"))
    assert not is_small(samples, [Run(str(tmp_path)).noun("features")], make_config(ExtractConfig, {}))


class _Doubles:
    """An actor that sets its process up, as those of models do."""

    def __init__(self, factor: int) -> None:
        torch.set_num_threads(1)
        self.factor = factor

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.table({"value": [self.factor * row for row in batch["row"].to_pylist()]})


def test_the_next_batch_is_loaded_while_the_actor_works():
    """Lines come in the order of shards and batches; a second batch is under way before the first line is taken."""
    second = threading.Event()

    def load(table: pa.Table):
        for shard in table["shard"].to_pylist():
            for row in range(2):
                if row:
                    second.set()
                yield pa.table({"row": [10 * shard + row]})

    threads = torch.get_num_threads()
    lines = lines_here([1, 2], load, _Doubles, {"factor": 2})
    assert next(lines) == {"value": 20}
    assert second.wait(10)
    assert [line["value"] for line in lines] == [22, 40, 42]
    assert torch.get_num_threads() == threads


def test_an_error_of_the_loader_is_raised_when_its_batch_is_due():
    def load(table: pa.Table):
        yield pa.table({"row": [1]})
        raise OSError("gone")

    lines = lines_here([0], load, _Doubles, {"factor": 1})
    assert next(lines) == {"value": 1}
    with pytest.raises(OSError, match="gone"):
        next(lines)
