"""A user's own method or metric, named `package.module:object`.

A result is known by the content of the file that its code was written in, so the code that runs must be that of the
file. Python loads a module once: in a process that lives long, such as a notebook, a file can be edited after that, and
the old code would run under the hash of the new file. Such a module is refused. What was loaded is known from the first
look on (`_check_loaded`). A module that the user imported before is held against its file by the size and the second of
change that Python noted beside compiled code. Limit: where Python writes no compiled code, an edit between the user's
own import and the first look is not seen.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Container, Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from raycurate.errors import UserError, unknown_name


def find_plugin(kind: str, name: str, own: Mapping[str, Any]) -> Any:
    """What `own` has under the name, or the object that `package.module:object` names.

    Raises:
        UserError: no such name, with the nearest one; an object that cannot be imported; or a file that was changed
            after this process imported it.
    """
    if name in own:
        return own[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise unknown_name(kind, name, own)
    before = set(sys.modules)
    try:
        named = importlib.import_module(module)
        found = getattr(named, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{kind} '{name}' cannot be imported: {error}; give package.module:object, its folder on PYTHONPATH"
        ) from error
    for file, each in _files_of(named, found).items():
        _check_loaded(file, each, before)
    return found


def source_hash(name: str) -> str | None:
    """Hash of the files in which a user's own object is named and written; None for the name of a built-in one.

    Most often that is one file. They are two where a package passes on what a module of its own defines, or where a
    decorator or a factory of another module made the object. What these files import is not looked at. An object
    without a file, such as one of a notebook, is known by its name.

    Raises:
        UserError: such a file was changed after this process imported it.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return None
    before = set(sys.modules)
    named = importlib.import_module(module)
    digest = hashlib.blake2b(digest_size=16)
    files = _files_of(named, getattr(named, attribute))
    for file, each in files.items():
        digest.update(_check_loaded(file, each, before))
    return digest.hexdigest() if files else None


def _files_of(named: ModuleType, found: Any) -> dict[Path, ModuleType | None]:
    """The files in which an object is written and named, each with the module that was loaded from it."""
    plain = inspect.unwrap(found)
    kind = plain if callable(plain) else type(plain)
    try:
        written = inspect.getsourcefile(kind)
    except TypeError:
        written = None
    modules = (sys.modules.get(getattr(kind, "__module__", None) or ""), named)
    loaded = {Path(file).resolve(): each for each in modules if (file := getattr(each, "__file__", None))}
    names = (written, getattr(named, "__file__", None))
    files = dict.fromkeys(Path(name).resolve() for name in names if name)
    return {file: loaded.get(file) for file in files if file.is_file()}


def _check_loaded(file: Path, module: ModuleType | None, before: Container[str]) -> bytes:
    """The content of a file, which is what its module was loaded from; `before`: the modules that were there already.

    Raises:
        UserError: the file was changed since then.
    """
    content = file.read_bytes()
    spec = None if module is None else module.__spec__
    if module is None or spec is None or file.suffix != ".py":  # a script is loaded once, a library is not edited
        return content
    now = hashlib.blake2b(content, digest_size=16).hexdigest()
    if spec.loader_state is None:  # Python makes another spec whenever a module is loaded again
        changed = module.__name__ in before and _noted_otherwise(spec, file)
        spec.loader_state = None if changed else now
    else:
        changed = isinstance(spec.loader_state, str) and spec.loader_state != now
    if changed:
        raise UserError(
            f"{file} was changed after this process imported '{module.__name__}': its old code would run, and the "
            "result would be known by the new file. Start Python (or the notebook's kernel) again."
        )
    return content


def _noted_otherwise(spec: ModuleSpec, file: Path) -> bool:
    """Whether the compiled code that Python keeps of a module is of another size or second of change of its file."""
    if type(spec.loader) is not SourceFileLoader or spec.cached is None or sys.dont_write_bytecode:
        return False
    if not (os.path.isfile(spec.cached) and os.access(os.path.dirname(spec.cached), os.W_OK)):
        return False
    head, status = Path(spec.cached).read_bytes()[:16], file.stat()
    by_hash, *noted = (int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12))
    return not by_hash and noted != [int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF]
