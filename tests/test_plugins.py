"""A user's own objects are known by the content of their file."""

from __future__ import annotations

import sys

import pytest

from raycurate.errors import UserError
from raycurate.plugins import find_plugin, source_hash


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user's, on the path."""
    file = tmp_path / "users_own_methods.py"
    file.write_text("class Mine:\n    pass\n\n\nmade = Mine()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    sys.modules.pop("users_own_methods", None)


def test_one_byte_of_the_file_is_another_hash(module, tmp_path):
    """Of a class and of an instance; other files and built-in names change nothing."""
    before = source_hash("users_own_methods:Mine")
    assert before is not None
    assert source_hash("users_own_methods:made") == before
    (tmp_path / "other.py").write_text("x = 1")
    assert source_hash("users_own_methods:Mine") == before
    module.write_text(module.read_text() + "#")
    assert source_hash("users_own_methods:Mine") not in (before, None)
    assert source_hash("coincide") is None


def test_what_cannot_be_found_is_one_message():
    with pytest.raises(UserError, match="give package.module:object"):
        find_plugin("method", "no_such_module:Thing", {})
    with pytest.raises(UserError, match="Did you mean 'random'"):
        find_plugin("method", "randm", {"random": 1})
