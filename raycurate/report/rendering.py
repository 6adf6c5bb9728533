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

_CONTROLS = (*range(9), 11, 12, *range(14, 32), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F))
_UNWRITTEN = {code: f"\\u{code:04x}" for code in (*_CONTROLS, *range(0x2066, 0x206A))}
"""Controls, and marks that break a line or turn the direction of the text around them, are written as what they are."""


def render(template: str, parts: dict[str, Any]) -> str:
    """A template of this package with these parts."""
    style, script = chart_style() + _source("page.css"), _source("page.js")
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    policy += "; base-uri 'none'; form-action 'none'"
    page = environment.get_template(template).render(
        **parts, style=Markup(style), script=Markup(script), policy=policy, version=__version__
    )
    return page.translate(_UNWRITTEN)  # charts too, which are markup when they come here


def _source(name: str) -> str:
    return files("raycurate.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
