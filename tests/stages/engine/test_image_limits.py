"""What ingest was told to accept, every later stage reads."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from raycurate.config import ExtractConfig, ScoreConfig
from raycurate.models.adapter import load_processor
from raycurate.run.store import Noun, Run
from raycurate.samples.schema import SAMPLE_SCHEMA, ImageRef, Message, Sample, sample_to_row
from raycurate.stages.engine.model_facts import ModelFacts
from raycurate.stages.workers.extract import load_shards
from raycurate.stages.workers.fragments import accepted_images, as_samples
from raycurate.stages.workers.score import load_rows
from raycurate.training.data import TokenDataset, TokenSource
from tests.training.made_runs import write_tokens

WIDE = {"max_pixels": 100_000_000, "max_image_bytes": 64 << 20}
FACTS = ModelFacts("f", (0,), 8, 16, "float32")


@pytest.fixture(scope="module")
def large() -> bytes:
    """A PNG of 9000 x 6000 pixels: more than the default limit."""
    buffer = io.BytesIO()
    Image.new("L", (9000, 6000), 7).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def samples_of(folder: Path, data: bytes, limits: dict[str, int]) -> Run:
    """A run of one row with the image, ingested with these limits."""
    run = Run(str(folder))
    noun = run.noun("samples")
    noun.begin({"stage": "ingest", "config": {"images": None, **limits}})
    image = ImageRef(data=data, sha=hashlib.sha256(data).hexdigest())
    turns = (Message("user", "<image>\nwhat?"), Message("assistant", "grey"))
    row = sample_to_row(Sample(messages=turns, images=(image,), task="t", source_file="made", source_row=0))
    noun.commit_part(0, pa.Table.from_pylist([row], schema=SAMPLE_SCHEMA), rows_in=1)
    noun.finish(metrics={"tasks": {"t": 1}})
    return run


def failures_of(load, config, samples: Noun) -> str:
    """What a loader rejects."""
    extra = (True,) if load is load_rows else ()
    (line,) = load(samples, config, FACTS, None, *extra, pa.table({"shard": [0]}))
    return str(line["failures"][0].as_py())


@pytest.mark.parametrize(("load", "kind"), [(load_shards, ExtractConfig), (load_rows, ScoreConfig)])
def test_loaders_read_a_large_image_that_ingest_accepted(tmp_path, large, load, kind):
    """Extract and score; without the setting it is still refused."""
    config = kind(blind=False) if kind is ScoreConfig else kind()
    assert failures_of(load, config, samples_of(tmp_path / "wide", large, WIDE).noun("samples")) == "[]"
    refused = failures_of(load, config, samples_of(tmp_path / "default", large, {}).noun("samples"))
    assert "54000000" in refused or "9000 x 6000" in refused


def test_tokens_and_training_read_it_too(tmp_path, large):
    """The row becomes tokens, and its image is read when it is trained on."""
    run = samples_of(tmp_path, large, WIDE)
    tokens = write_tokens(run, "tiny")
    assert tokens.require("finetune").rows_out == 1
    limits = accepted_images(run.noun("samples"))
    sources = [TokenSource(tokens, limits=limits)]
    rows = TokenDataset(sources, load_processor("tiny"), ["t"], scratch=tmp_path / "scratch")
    assert len(rows[0].images) == 1


def test_a_lower_limit_on_bytes_holds_as_well(tmp_path, large):
    """Limits of the manifest, in both directions."""
    run = samples_of(tmp_path, large, {"max_image_bytes": 100, "max_pixels": 100_000_000})
    noun = run.noun("samples")
    (sample,) = as_samples(noun.read_part(0).to_pylist(), None, accepted_images(noun))
    with pytest.raises(Exception, match="at most 100 are accepted"):
        sample["images"][0]()
