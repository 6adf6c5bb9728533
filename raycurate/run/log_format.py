"""Log lines as JSON, one object per line, for a log store: asked for with ``RAYCURATE_LOG=json``.

    {"time": "2026-01-31T12:00:00.123Z", "level": "INFO", "message": "...", "run": "1f0c2a9b", "stage": "extract", ...}

Lines of progress carry their numbers as fields; all others have time, level and message, and an error its traceback.
"""

from __future__ import annotations

import json
import logging
import os
import time

from raycurate.run.filesystem import or_null

ASKED_BY = "RAYCURATE_LOG"
FIELDS = "raycurate_fields"
"""Where a log record keeps the fields that its JSON form shows beside the message."""


def wants_json() -> bool:
    """Whether the environment asks for JSON."""
    return os.environ.get(ASKED_BY, "").lower() == "json"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage().strip(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(or_null(line), allow_nan=False)
