"""Errors of a replica that no client may read, as lines of the log: why a request got a 500, for whoever runs it."""

import json
import logging
from datetime import UTC, datetime

from export.serve.exchange import timestamp

__all__ = ["Faults"]

_LOGGERS = ("asyncio", "export", "uvicorn")
_MOST = 20
"""Records between two looks at them; one fault often hits every request."""

_LONGEST = 8000
"""Characters of a traceback, of which the last say most."""


class Faults(logging.Handler):
    """Keeps the errors that are logged until somebody takes them, and counts what is too much."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._lines: list[str] = []
        self._left_out = 0
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, and let it go where it went without this."""
        if len(self._lines) < _MOST:
            self._lines.append(_line(record))
        else:
            self._left_out += 1
        if logging.lastResort is not None and not logging.getLogger().handlers:
            logging.lastResort.handle(record)

    def take(self) -> list[str]:
        """Return the lines since the last call, each of JSON; the last says how many there were besides."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            left_out, self._left_out = self._left_out, 0
        finally:
            self.release()
        if left_out:
            lines.append(json.dumps({"time": timestamp(), "level": "error", "left_out": left_out}))
        return lines

    def close(self) -> None:
        """Hear nothing any more."""
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
        super().close()


def _line(record: logging.LogRecord) -> str:
    """Return a record as JSON: when, what, and the error with its traceback if there is one."""
    table = {
        "time": timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": "error",
        "message": record.getMessage()[:_LONGEST],
    }
    if record.exc_info is not None and (error := record.exc_info[1]) is not None:
        table["error"] = f"{type(error).__name__}: {error}"[:_LONGEST]
        table["traceback"] = logging.Formatter().formatException(record.exc_info)[-_LONGEST:]
    return json.dumps(table)
