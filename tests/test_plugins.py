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


def test_a_decorator_or_factory_of_another_module_hides_nothing(tmp_path, monkeypatch):
    """What was made by a helper counts by the file that names it, and by the helper's where that wrote the object."""
    helper, file = tmp_path / "users_own_helper.py", tmp_path / "users_own_metrics.py"
    helper.write_text(
        "import functools\n\n\ndef counted(f):\n    @functools.wraps(f)\n    def call(*given):\n"
        "        return f(*given)\n\n    return call\n\n\ndef scaled(by):\n    return lambda *given: by\n"
    )
    file.write_text(
        "import functools\n\nfrom users_own_helper import counted, scaled\n\n\n"
        "@counted\ndef wrapped(a):\n    return 1\n\n\nmade = scaled(1)\npart = functools.partial(wrapped, 1)\n\n\n"
        "@functools.cache\ndef kept(a):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ("wrapped", "made", "part", "kept")
    try:
        before = {name: source_hash(f"users_own_metrics:{name}") for name in names}
        file.write_text(file.read_text().replace("return 1", "return 2").replace("scaled(1)", "scaled(2)"))
        after = {name: source_hash(f"users_own_metrics:{name}") for name in names}
        helper.write_text(helper.read_text() + "#")
        last = source_hash("users_own_metrics:made")
    finally:
        for name in ("users_own_helper", "users_own_metrics"):
            sys.modules.pop(name, None)
    assert [name for name in names if before[name] == after[name]] == []
    assert last != after["made"]


def test_what_cannot_be_found_is_one_message():
    with pytest.raises(UserError, match="give package.module:object"):
        find_plugin("method", "no_such_module:Thing", {})
    with pytest.raises(UserError, match="Did you mean 'random'"):
        find_plugin("method", "randm", {"random": 1})
