"""The times that manifests hold, for people and for comparisons."""

from __future__ import annotations

from datetime import datetime


def when(created: str) -> str:
    """A manifest's time in short, on this machine's clock: 25 Nov 2026 14:02."""
    seconds = seconds_of(created)
    if seconds is None:
        return "an unknown day"
    moment = datetime.fromtimestamp(seconds)
    return f"{moment.day} {moment:%b %Y %H:%M}"


def seconds_of(created: str) -> float | None:
    """A manifest's time as seconds of the epoch; None for a manifest without one."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return None
