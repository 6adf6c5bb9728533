"""Names on the hub: read offline from the client's cache as it lies on disk, refused where that has nothing."""

from __future__ import annotations

from collections import Counter

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.samples.hub import hub_folder
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.parse_task import folders_are_tasks
from raycurate.samples.readers import left_out, open_source
from raycurate.samples.rows import ReadOptions
from raycurate.settings import make_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Blobs, a snapshot of links to them, and the commit of a branch."""
    repo = tmp_path / "hub" / "datasets--org--name"
    for folder in ("ai2d", "vqa"):
        for split in ("train", "test"):
            name = f"{folder}/{split}-00000-of-00001.parquet"
            rows = {"texts": [[{"user": f"{name} {i}?", "assistant": "Yes."}] for i in range(3)]}
            blob = repo / "blobs" / f"{folder}{split}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(rows), blob)
            link = repo / "snapshots" / COMMIT / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../../../blobs/{blob.name}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_folder.cache_clear()
    yield repo
    hub_folder.cache_clear()


def test_a_cached_data_set_is_read_offline(cache):
    """By split, with the folders of its subsets as tasks; it is told that the cache was read."""
    config = make_config(IngestConfig, {"source": "org/name", "format": "hub", "split": "train"})
    assert config.source == "hub://org/name"
    reader = open_source(config.source, config.format, options=ReadOptions(split="train"))
    options = ParseOptions(folder_tasks=folders_are_tasks(file.name for file in reader.files))
    rows = [parse_row(raw, options) for part in reader.slices() for raw in reader.read(part)]
    assert Counter(row.task for row in rows) == {"ai2d": 3, "vqa": 3}
    assert rows[0].messages[0].text == "ai2d/train-00000-of-00001.parquet 0?"
    told = left_out("hub://org/name", reader)
    assert told[0].endswith(str(cache / "snapshots" / COMMIT))


def test_revisions_and_folders(cache):
    """A part of a data set, of a commit."""
    for name in ("org/name/vqa", f"org/name@{COMMIT}/vqa"):
        assert len(open_source(name, "hub").files) == 2


@pytest.mark.parametrize("name", ["org/other", "org/name/none", "org/name@other"])
def test_what_is_not_cached_is_refused_with_the_command_that_gets_it(cache, name):
    """Neither reached nor there."""
    with pytest.raises(UserError, match="hf download org/"):
        open_source(name, "hub")


def test_a_name_that_is_none_is_refused():
    """Before anything is asked."""
    with pytest.raises(UserError, match="no name on the hub"):
        open_source("train.json", "hub")
