"""`tokenize`: bad rows are counted, whichever shard they fell into."""

from __future__ import annotations

import logging

import pytest

from raycurate.errors import UserError
from raycurate.samples.schema import Message, Sample
from raycurate.stages.engine.shards import map_here
from raycurate.stages.tokenize import tokenize
from raycurate.training.config import FinetuneConfig
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import write_run

MAX_LENGTH = 200


def overlong(number: int) -> Sample:
    """A row that no length limit of these tests lets through."""
    turns = (Message("user", f"say {number}"), Message("assistant", "word " * MAX_LENGTH))
    return Sample(messages=turns, task="text", source_file="made", source_row=number)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of a finetune of a tiny LLaVA on all rows."""
    model = str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava")))
    return FinetuneConfig(model=model, selection=None, max_length=MAX_LENGTH)


@pytest.mark.parametrize("seed", range(5))
def test_one_bad_row_of_few_drawn_ones_is_counted(tmp_path, settings, seed):
    """Ten rows drawn out of ten shards, one row in three overlong: wherever they fall, the others are trained on."""
    run = write_run(tmp_path, 30, shards=10, other={n: overlong(n) for n in range(0, 30, 3)})
    noun = tokenize(run, settings.model_copy(update={"limit": 10, "seed": seed, "max_rejected": 1.0}), "f", map_here)
    manifest = noun.require("finetune")
    assert manifest.rows_in == 10
    assert manifest.rows_out + manifest.quarantined.get("overlong", 0) == 10
    assert manifest.rows_out > 0


def test_a_shard_of_bad_rows_alone_does_not_end_a_training(tmp_path, settings, caplog):
    """The only row of a shard is overlong: a line says so, no error."""
    run = write_run(tmp_path, 10, shards=10, other={4: overlong(4)})
    with caplog.at_level(logging.WARNING, "raycurate"):
        manifest = tokenize(run, settings, "f", map_here).require("finetune")
    assert (manifest.rows_out, manifest.quarantined) == (9, {"overlong": 1})
    assert "overlong" in caplog.text


def test_no_row_left_is_an_error(tmp_path, settings):
    """Even where every share of rejected rows is allowed."""
    run = write_run(tmp_path, 3, other={n: overlong(n) for n in range(3)})
    with pytest.raises(UserError, match=r"3 of 3 rows were rejected \(overlong 3\)"):
        tokenize(run, settings.model_copy(update={"max_rejected": 1.0}), "f", map_here)
