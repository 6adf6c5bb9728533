"""A user's own method or metric, named `package.module:object`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycurate.errors import UserError, unknown_name


def find_plugin(kind: str, name: str, own: Mapping[str, Any]) -> Any:
    """What `own` has under the name, or the object that `package.module:object` names.

    Raises:
        UserError: no such name, with the nearest one; or an object that cannot be imported.
    """
    if name in own:
        return own[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise unknown_name(kind, name, own)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{kind} '{name}' cannot be imported: {error}; give package.module:object") from error


def source_hash(name: str) -> str | None:
    """Hash of the files in which a user's own object is named and written; None for the name of a built-in one.

    Most often that is one file. They are two where a package passes on what a module of its own defines, or where a
    decorator or a factory of another module made the object. What these files import is not looked at. An object
    without a file, such as one of a notebook, is known by its name.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return None
    named = importlib.import_module(module)
    found = inspect.unwrap(getattr(named, attribute))
    try:
        written = inspect.getsourcefile(found if callable(found) else type(found))
    except TypeError:
        written = None
    files = dict.fromkeys(Path(file).resolve() for file in (written, getattr(named, "__file__", None)) if file)
    digest = hashlib.blake2b(digest_size=16)
    there = [file for file in files if file.is_file()]
    for file in there:
        digest.update(file.read_bytes())
    return digest.hexdigest() if there else None
