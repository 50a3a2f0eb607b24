"""The log of a process: a line for each message, whoever's words are in it.

Lines are for people, or JSON objects for programs. What a message is about it says as `extra`, by the names
in `ABOUT`; JSON has these as fields of their own. Of all of them structlog makes lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from actors.process.imports import without

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
    handler.setFormatter(make_formatter(form))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def set_level(logger: str, level: str) -> None:
    """From now on `logger` says what is of this level or above; others what is a warning at least."""
    logging.getLogger(logger).setLevel(level.upper())
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def find_level(logger: str) -> str | None:
    """What `set_level` was told last for it; None: nothing."""
    level = logging.getLogger(logger).level
    return None if level == logging.NOTSET else str(logging.getLevelName(level)).lower()


def make_formatter(form: str) -> logging.Formatter:
    """Makes lines of records, whichever library they are of: `text` as `render_line` has it, or `json`.

    JSON has an ASCII object a line: `at`, `level`, `logger`, `message`; what it is about; `request`, the id
    of the request that is answered, unless it is about a job that another one handed in; `exception`."""
    # Late, for commands to be quick; and it brings much with it only to paint tracebacks, if it can.
    with without("rich"):
        from structlog import processors, stdlib

    as_json = form == "json"
    chain = (
        processors.TimeStamper("iso", utc=as_json, key="at"),
        stdlib.add_log_level,
        stdlib.add_logger_name,
        processors.EventRenamer("message"),
        _add_request,
        stdlib.ExtraAdder(ABOUT),
        processors.format_exc_info,
        stdlib.ProcessorFormatter.remove_processors_meta,
        processors.JSONRenderer(default=str) if as_json else render_line,
    )
    return stdlib.ProcessorFormatter(processors=chain)


def _add_request(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**line, "request": asked} if (asked := request_id.get()) else line


def render_line(_: object, __: str, line: MutableMapping[str, Any]) -> str:
    """For people. What is not to be printed as it is stands there escaped, which no renderer of the library
    does: ends of lines, and what moves a terminal or turns the direction of a text. Tracebacks are indented
    below their line."""
    said = f"{line['at']} {line['level'].upper()} {line['logger']}: {line['message']}"
    if asked := line.get("request"):
        said += f" (request {asked})"
    traceback = line["exception"].split("\n") if "exception" in line else ()
    return "\n    ".join(map(escaped, (said, *traceback)))


def escaped(text: str) -> str:
    """The text, in a line."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text
    )
