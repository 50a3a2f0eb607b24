"""The log of a process: a line for each message, whoever's words are in it.

Lines are for people, or JSON objects for programs. What a message is about it says as `extra`, by the names
in `ABOUT`; JSON has these as fields of their own.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")
ABOUT: Final = (
    "job", "user", "service", "status", "node", "attempt", "request",
    "who", "address", "method", "path", "seconds", "bytes",
)  # fmt: skip
"""What a line may be about: the job's id, its user, service and status; the node's id; the attempt's key; the
id of the request that handed the job in; the token or person that asks, and from where; a request and its
answer."""

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""The id of the request that is answered in this task."""


def set_up_log(form: str = "text") -> None:
    """Warnings of everybody, and above, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter(FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def set_level(logger: str, level: str) -> None:
    """From now on `logger` says what is of this level or above; others what is a warning at least."""
    logging.getLogger(logger).setLevel(level.upper())
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


class JsonFormatter(logging.Formatter):
    """One ASCII object a line: `at`, `level`, `logger`, `message`; what it is about; `request`, the id of the
    request that is answered, unless it is about a job that another one handed in; `exception`, the
    traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if asked := request_id.get():
            line["request"] = asked
        line |= {name: found for name in ABOUT if (found := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class LineFormatter(logging.Formatter):
    """What is not to be printed as it is stands there escaped: ends of lines, and what moves a terminal or
    turns the direction of a text. Tracebacks are indented below their line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # as logging calls it
        return escaped(super().formatMessage(record))

    def formatException(  # noqa: N802  # as logging calls it
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        return "\n".join(f"    {escaped(line)}" for line in super().formatException(ei).split("\n"))


def escaped(text: str) -> str:
    """The text, in a line."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text
    )
