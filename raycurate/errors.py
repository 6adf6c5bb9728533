"""Errors that a user can act on, and the list of names with its "did you mean" hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 60
"""Names that are listed; tasks of the data may be thousands."""


class UserError(ValueError):
    """A wrong setting or input. The message says what was wrong, where, what is allowed and what to do."""


def unknown_name(kind: str, name: str, available: Iterable[str]) -> UserError:
    """The error for a name that is not in a list, with the nearest name as a hint."""
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return UserError(f"unknown {kind} '{name}'.{hint} Available: {', '.join(names[:MOST_NAMES]) or '(none)'}{more}")
