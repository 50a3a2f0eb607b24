"""The log of a process: a line for each message, whoever's words are in it."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_log() -> None:
    """Warnings of everybody, and above, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


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
