"""The selection methods by name. A user's own is named `package.module:object`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycurate.errors import UserError, unknown_name
from raycurate.plugins import find_plugin
from raycurate.selection.base import Selector
from raycurate.selection.methods.balanced import Balanced
from raycurate.selection.methods.clip_score import ClipScore
from raycurate.selection.methods.coincide import Coincide
from raycurate.selection.methods.d2_pruning import D2Pruning
from raycurate.selection.methods.dics import Dics
from raycurate.selection.methods.el2n import El2n
from raycurate.selection.methods.icons import Icons
from raycurate.selection.methods.less import Less
from raycurate.selection.methods.perplexity import Perplexity
from raycurate.selection.methods.presel import Presel
from raycurate.selection.methods.prism import Prism
from raycurate.selection.methods.random import Random
from raycurate.selection.methods.scalselect import ScalSelect
from raycurate.selection.methods.self_filter import SelfFilter
from raycurate.selection.methods.self_sup import SelfSup
from raycurate.selection.methods.semdedup import SemDeDup
from raycurate.selection.methods.stratified import Stratified
from raycurate.selection.methods.targeted import Targeted
from raycurate.selection.methods.tive import Tive
from raycurate.selection.methods.visual_gain import VisualGain

Method = Callable[..., Selector]

METHODS: Mapping[str, Method] = {
    "balanced": Balanced,
    "clip_score": ClipScore,
    "coincide": Coincide,
    "d2_pruning": D2Pruning,
    "dics": Dics,
    "el2n": El2n,
    "icons": Icons,
    "less": Less,
    "perplexity": Perplexity,
    "presel": Presel,
    "prism": Prism,
    "random": Random,
    "scalselect": ScalSelect,
    "self_filter": SelfFilter,
    "self_sup": SelfSup,
    "semdedup": SemDeDup,
    "stratified": Stratified,
    "targeted": Targeted,
    "tive": Tive,
    "visual_gain": VisualGain,
}


def get_method(name: str) -> Method:
    """Return the method of that name, or the object that `package.module:object` names.

    Raises:
        UserError: no such method, with the nearest name; or an object that cannot be imported or called.
    """
    found = find_plugin("method", name, METHODS)
    if not callable(found):
        raise UserError(f"method '{name}' is a {type(found).__name__}; it must be a class or a function")
    method: Method = found
    return method


def build_selector(name: str, options: Mapping[str, Any] | None = None) -> Selector:
    """Return the method of that name with its options checked and set.

    Raises:
        UserError: an unknown method or option, a value that is not allowed, or an object that is no selector.
    """
    method, given = get_method(name), dict(options or {})
    if isinstance(method, type) and dataclasses.is_dataclass(method):
        selector = _checked(name, method, given)
    else:
        selector = method(**given)
    if not isinstance(selector, Selector):
        parts = ("needs", "columns", "plan", "order", "decide")
        lacking = ", ".join(part for part in parts if not hasattr(selector, part))
        raise UserError(f"method '{name}' made a {type(selector).__name__}, which lacks {lacking}")
    return selector


def _checked(name: str, method: type[Any], given: Mapping[str, Any]) -> Any:
    known = [entry.name for entry in dataclasses.fields(method) if entry.init]
    for option in given:
        if option not in known:
            told = unknown_name(f"option of method '{name}'", option, known)
            raise UserError(f"{told}{_who_has(option)}")
    try:
        return TypeAdapter(method).validate_python(dict(given))
    except ValidationError as error:
        raise _readable(name, error) from error


def _who_has(option: str) -> str:
    """The methods that have an option, as the end of a message."""
    names = [
        name
        for name, method in METHODS.items()
        if isinstance(method, type) and option in {entry.name for entry in dataclasses.fields(method) if entry.init}
    ]
    return f". Methods that have it: {', '.join(names)}." if names else ""


def _readable(name: str, error: ValidationError) -> UserError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return cause
    where = ".".join(str(part) for part in first["loc"])
    return UserError(f"option '{where}' of method '{name}' is {first['input']!r}: {first['msg']}")
