"""Saying what lasts from time to time, not each time that it is met."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

EVERY = 60.0
"""Seconds from one line to the next."""


class Complaint:
    """One line a minute at most, whoever else has the same reason to complain."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next = float("-inf")

    def say(self, message: str, *args: object, about: Mapping[str, object] | None = None) -> None:
        """`about`: what the line is about, as `extra` of the log."""
        if trio.current_time() >= self._next:
            self._next = trio.current_time() + EVERY
            self._log.warning(message, *args, extra=about)
