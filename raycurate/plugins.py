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
    """Hash of the file in which a user's own object is written; None for the name of a built-in one.

    What that file imports is not looked at. An object without a file, such as one of a notebook, is known by its name.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return None
    found = getattr(importlib.import_module(module), attribute)
    try:
        file = inspect.getsourcefile(found if callable(found) else type(found))
    except TypeError:
        file = getattr(importlib.import_module(module), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
