"""The log of a process: where it goes, what is in it, as text for people or JSON for machines."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

from control.api.web import REQUESTS
from control.service.config import Config, ServiceError

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
REPEAT_SECONDS = 60.0  # in which the same line is written REPEATS times at most
REPEATS = 10
REMEMBERED = 1_000  # lines


def configure(config: Config) -> None:
    """The log as these settings say, from now on; a file is opened again. Raises ServiceError, and
    then it stays as it was."""
    try:
        made = (
            logging.FileHandler(config.home / config.log_file, encoding="utf-8")
            if config.log_file
            else logging.StreamHandler(sys.stderr)
        )
    except OSError as error:
        raise ServiceError(f"log_file {error.filename}: {error.strerror}") from error
    made.setFormatter(Json() if config.log_format == "json" else Text(TEXT))
    made.addFilter(Repeats())
    root = logging.getLogger()
    before = [one for one in root.handlers if isinstance(one.formatter, Json | Text)]
    root.addHandler(made)
    for one in before:
        root.removeHandler(one)
        one.close()
    root.setLevel(config.log_level.upper())
    logging.raiseExceptions = False  # where the log cannot be written there is nobody to tell
    logging.getLogger("alembic").setLevel(logging.WARNING)  # two lines at each start
    logging.getLogger(REQUESTS).disabled = not config.request_log


def clean(text: str) -> str:
    """In one line: what strangers have sent may be in it."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\x{ord(found[0]):02x}", text
    )


class Text(logging.Formatter):
    """A line a record, in which control characters that strangers have sent are escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Escapes the message only: a traceback, put behind it later, has lines."""
        record.message = clean(record.message)
        return super().formatMessage(record)


class Json(logging.Formatter):
    """An object a line: `time` (UTC), `level`, `logger`, `message`; `exception` with a traceback;
    and what a request was."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON in one line; `told` of the record adds fields."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told | getattr(record, "told", {}))


class Repeats(logging.Filter):
    """The same line over and over is counted instead of written. Requests are all written."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}  # a line → since when, and how often

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written: the first REPEATS of a line in REPEAT_SECONDS; the next
        one then says how many were left out."""
        if record.name == REQUESTS:
            return True
        line, now = f"{record.name}: {record.getMessage()}", time.monotonic()
        if record.exc_info and record.exc_info[1]:
            line += repr(record.exc_info[1])[:200]
        since, count = self._seen.get(line, (now, 0))
        if now > since + REPEAT_SECONDS:
            since, left, count = now, count - REPEATS, 0
            if left > 0:
                record.msg, record.args = f"{record.getMessage()} ({left} times more)", ()
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        self._seen[line] = since, count + 1
        return count < REPEATS
