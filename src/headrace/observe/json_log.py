"""JsonFormatter: log records as JSON, a line each, for programs that collect logs.

In: records of `logging`; what belongs to one beside its text is in `record.fields`
(`extra={"fields": {...}}`). Out: one object per line. Adds nothing that the record has not.
"""

from __future__ import annotations

import json
import logging
import time


class JsonFormatter(logging.Formatter):
    """Time in UTC, level, logger, message, then the fields, then a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter. What JSON does not know is written as text."""
        entry: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, default=str)


def _utc(unix_s: float) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))
    return f"{seconds}.{int(unix_s % 1 * 1000):03d}Z"
