"""A user's own objects are known by the content of their file."""

from __future__ import annotations

import importlib
import os
import sys
import time

import pytest

from raycurate.errors import UserError
from raycurate.plugins import find_plugin, source_hash

WRITTEN = "class Mine:\n    limit = 1\n\n    def value(self):\n        return 1\n\n\nmade = Mine()\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user's, on the path."""
    file = tmp_path / "users_own_methods.py"
    file.write_text(WRITTEN)
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
    _start_again("users_own_methods")
    assert source_hash("users_own_methods:Mine") not in (before, None)
    assert source_hash("coincide") is None


def _start_again(*names: str) -> None:
    """Forget modules, as another process does not have them yet."""
    for name in names:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.mark.parametrize("imported", ["by the user", "by raycurate"])
@pytest.mark.parametrize(
    "edited", [("return 1", "return 2"), ("    def", "    # x\n    def"), ("limit = 1", "limit = 2")]
)
def test_a_file_that_was_edited_after_it_was_loaded_is_refused(module, imported, edited, monkeypatch):
    """Its old code would run under the new hash, in a notebook or a worker that lives long; loaded anew it is right."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    if imported == "by the user":
        importlib.import_module("users_own_methods")
    else:
        before = source_hash("users_own_methods:Mine")
        module.touch()
        assert source_hash("users_own_methods:Mine") == before, "its time alone is no edit"
    module.write_text(WRITTEN.replace(*edited))
    os.utime(module, (time.time() + 5, time.time() + 5))
    for look in (source_hash, lambda name: find_plugin("method", name, {}), source_hash):
        with pytest.raises(UserError, match=r"users_own_methods.py was changed after .* imported 'users_own_methods'"):
            look("users_own_methods:Mine")
    importlib.reload(sys.modules["users_own_methods"])
    after = source_hash("users_own_methods:Mine")
    assert find_plugin("method", "users_own_methods:Mine", {}) is sys.modules["users_own_methods"].Mine
    _start_again("users_own_methods")
    assert source_hash("users_own_methods:Mine") == after


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
    names, modules = ("wrapped", "made", "part", "kept"), ("users_own_helper", "users_own_metrics")
    try:
        before = {name: source_hash(f"users_own_metrics:{name}") for name in names}
        file.write_text(file.read_text().replace("return 1", "return 2").replace("scaled(1)", "scaled(2)"))
        _start_again(*modules)
        after = {name: source_hash(f"users_own_metrics:{name}") for name in names}
        helper.write_text(helper.read_text() + "#")
        with pytest.raises(UserError, match=r"users_own_helper.py was changed"):
            source_hash("users_own_metrics:made")
        _start_again(*modules)
        last = source_hash("users_own_metrics:made")
    finally:
        _start_again(*modules)
    assert [name for name in names if before[name] == after[name]] == []
    assert last != after["made"]


def test_what_cannot_be_found_is_one_message():
    with pytest.raises(UserError, match="give package.module:object"):
        find_plugin("method", "no_such_module:Thing", {})
    with pytest.raises(UserError, match="Did you mean 'random'"):
        find_plugin("method", "randm", {"random": 1})
