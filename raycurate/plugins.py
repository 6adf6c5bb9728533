"""A user's own method or metric, named `package.module:object`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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
