"""Progress of long work: a live line on a terminal, periodic log lines elsewhere, and a heartbeat for ``status``.

What is counted here also goes to Prometheus (`meters.py`). Log lines carry their numbers, the run and the stage as
fields, which the JSON form of the log shows (`log_format.py`).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from raycurate.run.log_format import FIELDS, wants_json
from raycurate.run.store import Noun, Run

LOG_SECONDS = 15.0
HEARTBEAT_SECONDS = 5.0
ALIVE_SECONDS = 60.0

log = logging.getLogger("raycurate")


def per_second(rate: float) -> str:
    """A rate to read: whole units, or two digits of a slow one."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


class Progress:
    """Counts units of work of one stage. Use as a context; call ``advance`` or ``set`` as work is done."""

    def __init__(self, stage: str, total: int, unit: str = "rows", *, noun: Noun | None = None, done: int = 0) -> None:
        self.stage, self.total, self.unit, self.noun = stage, total, unit, noun
        self.done = self.first = done
        self.started = time.monotonic()
        self.counted_seconds = 0.0
        self.last_log = self.last_beat = self.started
        run = "" if noun is None else Run(noun.run_uri).id
        label = "" if noun is None else noun.label
        self.ids = {"run": run, "stage": stage, "label": label}
        from raycurate.run.meters import Meters  # Ray takes a while to import, and `status` counts nothing

        self.meters = Meters(run, stage, label, unit)
        self.bar: RichProgress | None = None
        if sys.stderr.isatty() and not wants_json():
            self.bar = RichProgress(
                TextColumn("[bold]{task.description:<9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{unit}  {{task.fields[rate]}}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(self.stage, total=self.total, completed=self.done, rate="")
        self.beat(force=True)
        log.debug("%s: started", self.stage, extra={FIELDS: self.ids})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.beat(force=True, state="stopped")

    @property
    def rate(self) -> float:
        """Units per second of this attempt."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished units."""
        self.set(self.done + count, note)

    def set(self, done: int, note: str = "") -> None:
        """Say how many units are done in all."""
        self.meters.work(done - self.done, self.rate, self.total - done)
        self.done = done
        if self.bar is not None:
            self.bar.update(self.task, completed=done, rate=f"{per_second(self.rate)} {note}".strip())
        elif time.monotonic() - self.last_log >= LOG_SECONDS:
            self._log(note)
        self.beat()

    def quarantined(self, reasons: Mapping[str, int]) -> None:
        """Count rejected rows by their reason."""
        self.meters.quarantined(reasons)

    def measure(self, **numbers: float) -> None:
        """Tell Prometheus a number of this stage that is not a count, by name."""
        for name, value in numbers.items():
            self.meters.measure(name, value)

    def _log(self, note: str) -> None:
        self.last_log = time.monotonic()
        rate = self.rate
        # Before the first unit is done there is no rate, and nothing to say about the time left.
        pace = f", {per_second(rate)}, {(self.total - self.done) / rate:,.0f} s left" if rate > 0 else ""
        fields = {**self.ids, "done": self.done, "total": self.total, "unit": self.unit, "rate": round(rate, 3)}
        log.info(
            "%s: %d of %d %s%s%s",
            self.stage,
            self.done,
            self.total,
            self.unit,
            pace,
            f" {note}" if note else "",
            extra={FIELDS: {**fields, "note": note}},
        )

    def beat(self, *, force: bool = False, state: str = "running") -> None:
        """Leave a sign of life in the noun's folder and add the wall clock since the last one."""
        now = time.monotonic()
        if self.noun is None or (not force and now - self.last_beat < HEARTBEAT_SECONDS):
            return
        self.last_beat = now
        self.noun.add_seconds(now - self.started - self.counted_seconds)
        self.counted_seconds = now - self.started
        value: dict[str, Any] = {
            "state": state,
            "time": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": round(self.rate, 3),
        }
        self.noun.write_json("progress.json", value)
