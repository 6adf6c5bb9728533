"""What a model's name means, and the hash that tells whether it is the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raycurate.errors import UserError
from raycurate.models import source


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


def test_a_changed_byte_at_either_end_changes_the_hash(tmp_path, monkeypatch):
    """Large files are hashed by size, head and tail, the others whole; notes beside them do not count."""
    monkeypatch.setattr(source, "SMALL_FILE", 8)
    weights = tmp_path / "model.safetensors"
    seen = set()
    for content in (b"a" * 40, b"b" + b"a" * 39, b"a" * 39 + b"b", b"a" * 41, b"a"):
        weights.write_bytes(content)
        seen.add(source.model_fingerprint(str(tmp_path), None))
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert len(seen) == 5
    assert source.model_fingerprint(str(tmp_path), None) in seen


def test_a_model_of_the_hub_is_known_by_its_commit():
    """Without a folder the commit that the config came from counts."""
    assert source.model_fingerprint("some/model", SimpleNamespace(_commit_hash="abc")) == "some/model@abc"
