"""What a model's name means, and the hash that tells whether it is the same."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycurate.errors import UserError
from raycurate.models import file_hashes, source
from raycurate.models.source import model_fingerprint

LARGE = 160 << 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "raycurate" / "file-hashes"


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def _age(path: Path, seconds: float) -> None:
    """Put the time of change back; the time of change of the entry itself stays what it is."""
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


def test_tiny_is_a_folder_of_the_package(tmp_path, monkeypatch):
    """ "tiny" resolves inside the package, and its absence is a readable error; other names pass through."""
    monkeypatch.setattr(source.resources, "files", lambda _package: tmp_path)
    with pytest.raises(UserError, match="embedded model is not installed"):
        source.resolve_model("tiny")
    weights = tmp_path / "tiny" / "weights"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}", encoding="utf-8")
    assert source.resolve_model("tiny") == str(weights)
    assert source.resolve_model("some/model") == "some/model"


def test_a_byte_in_the_middle_of_a_large_file_changes_the_hash(model, cache):
    """A file above 128 MiB is read whole, with its old time put back as well."""
    weights = model / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(LARGE)
    _age(weights, 100)
    before, status = model_fingerprint(str(model), None), weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(LARGE // 2)
        stream.write(b"x")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert model_fingerprint(str(model), None) != before


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "consolidated.00.pth",
        "model.pt",
        "model.gguf",
        "flax_model.msgpack",
        "tf_model.h5",
        "config.json",
        "chat_template.jinja",
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "qwen.tiktoken",
        "modeling_own.py",
        "additional_chat_templates/tool_use.jinja",
        "adapter/adapter_model.bin",
    ],
)
def test_every_file_that_a_loader_reads_counts(model, name):
    """One changed byte, a file that appears, and one that goes: each is another model."""
    path = model / name
    path.parent.mkdir(exist_ok=True)
    seen = [model_fingerprint(str(model), None)] if name != "config.json" else []
    for content in (b"abc", b"abd", b"abcd"):
        path.write_bytes(content)
        seen.append(model_fingerprint(str(model), None))
    assert len(set(seen)) == len(seen)
    if name != "config.json":
        path.unlink()
        assert model_fingerprint(str(model), None) == seen[0]


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "notes.txt",
        ".gitattributes",
        ".cache/huggingface/model.safetensors.metadata",
        "optimizer.pt",
        "rng_state_0.pth",
        "trainer_state.json",
        "checkpoint-500/model.safetensors",
        "runs/events.out.tfevents.1",
        "onnx/model.onnx",
        "example.png",
    ],
)
def test_what_no_loader_reads_does_not_count(model, name):
    before = model_fingerprint(str(model), None)
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_bytes(b"x")
    assert model_fingerprint(str(model), None) == before


def test_a_touched_or_copied_model_is_the_same(model, tmp_path):
    """Neither the time of a file nor the place of the folder counts, and a link counts as what it leads to."""
    (model / "model.bin").write_bytes(b"w" * (3 << 20))
    before = model_fingerprint(str(model), None)
    _age(model / "model.bin", 1000)
    assert model_fingerprint(str(model), None) == before
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("config.json", "model.bin"):
        (snapshot / name).symlink_to(model / name)
    assert model_fingerprint(str(snapshot), None) == before


def test_the_second_look_does_not_read(model, cache, monkeypatch):
    """A settled file is known by its state; any other state has it read again."""
    weights = model / "model.bin"
    weights.write_bytes(b"w" * (2 << 20))
    monkeypatch.setattr(file_hashes, "SETTLED_SECONDS", -1.0)
    before = model_fingerprint(str(model), None)
    (note,) = cache.iterdir()
    noted = note.read_text(encoding="utf-8")
    note.write_text(noted.replace('"digest": "', '"digest": "noted'), encoding="utf-8")
    assert model_fingerprint(str(model), None) != before, "the note was not looked at"
    _age(weights, 1000)
    assert model_fingerprint(str(model), None) == before
    note.write_text("{", encoding="utf-8")
    assert model_fingerprint(str(model), None) == before, "a broken note counts as none"


def test_a_file_that_changed_a_moment_ago_is_not_noted(model, cache):
    """Within one tick of the clock a second write leaves the state as it was."""
    (model / "model.bin").write_bytes(b"w" * (2 << 20))
    model_fingerprint(str(model), None)
    assert not cache.exists()


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    """Without a folder the commit counts: of the config, else of the cache that it was loaded from; else an error."""
    assert model_fingerprint("some/model", SimpleNamespace(_commit_hash="abc")) == "some/model@abc"
    cached = _hub(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="version of the model 'some/model' is not known"):
        model_fingerprint("some/model", None)
    commit = "0123456789abcdef0123456789abcdef01234567"
    _cache(cached, "some/model", commit, "config.json", {})
    assert model_fingerprint("some/model", None) == f"some/model@{commit}"


def _hub(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache of the hub, in its layout."""
    cached = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(cached), raising=False)
    return cached


def _cache(hub: Path, repository: str, commit: str, name: str, value: Any) -> None:
    """Put a JSON file of a commit into the cache, and make that commit the newest."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    (folder / "snapshots" / commit / name).write_text(json.dumps(value), encoding="utf-8")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit, encoding="utf-8")


@pytest.mark.parametrize("where", ["a folder", "the hub"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "other/code--configuration_own.OwnConfig"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "other/code--modeling_own.Own"}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["other/code--tokens.Own", None]}}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "other/code--processing.Own"}}),
    ],
)
def test_code_of_another_repository_counts_by_its_commit(model, tmp_path, monkeypatch, where, name, value):
    """What `trust_remote_code` loads from elsewhere: another commit of it is another model, another time is not."""
    hub, commits = _hub(tmp_path, monkeypatch), ("a" * 40, "b" * 40)
    asked = str(model) if where == "a folder" else "some/model"
    if where == "a folder":
        (model / name).write_text(json.dumps(value), encoding="utf-8")
    else:
        _cache(hub, asked, "c" * 40, "config.json", {})
        _cache(hub, asked, "c" * 40, name, value)
    plain = model_fingerprint(asked, None)
    found = []
    for commit in (*commits, commits[0]):
        for file in ("configuration_own.py", "modeling_own.py", "tokens.py", "processing.py"):
            _cache(hub, "other/code", commit, file, {})
        found.append(model_fingerprint(asked, None))
    assert found == [f"{plain}+other/code@{commit}" for commit in (*commits, commits[0])]


@pytest.mark.parametrize("named", ["modeling_own.Own", "some/model--modeling_own.Own", "other/uncached--a.B"])
def test_code_of_the_model_itself_is_known_already(tmp_path, monkeypatch, named):
    """By the hash or the commit of the model; what is not in the cache was not loaded."""
    hub = _hub(tmp_path, monkeypatch)
    _cache(hub, "some/model", "c" * 40, "config.json", {"auto_map": {"AutoConfig": named}, "name": "x--y.z"})
    _cache(hub, "some/model", "c" * 40, "modeling_own.py", {})
    assert model_fingerprint("some/model", None) == f"some/model@{'c' * 40}"
