"""Templates to HTML: everything escaped, and a content security policy that forbids every request.

Scripts and styles other than the two of this package are refused by the browser: the policy names their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from raycurate.charts.files import chart_style
from raycurate.version import __version__

_UNWRITTEN = {0x202A + i: f"\\u{0x202A + i:04x}" for i in range(5)} | {
    0x2066 + i: f"\\u{0x2066 + i:04x}" for i in range(4)
}
"""Marks that turn the direction of the text around them are written as what they are."""


def render(template: str, parts: dict[str, Any]) -> str:
    """A template of this package with these parts."""
    style, script = chart_style() + _source("page.css"), _source("page.js")
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    policy += "; base-uri 'none'; form-action 'none'"
    return environment.get_template(template).render(
        **parts, style=Markup(style), script=Markup(script), policy=policy, version=__version__
    )


def _plain(value: Any) -> Any:
    """Text of the data without marks that turn its direction; what is safe already stays."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_UNWRITTEN)
    return value


def _source(name: str) -> str:
    return files("raycurate.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
