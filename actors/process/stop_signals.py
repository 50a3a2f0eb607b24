"""The signals that ask a process to stop."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio


@contextmanager
def signals_to_stop() -> Iterator[AsyncIterator[int]]:
    """SIGINT and SIGTERM as they come, and SIGHUP (as when the terminal is closed) unless it is ignored, as
    nohup has it. Until the block ends none of them kills. Only in the main thread."""
    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    with trio.open_signal_receiver(*asked) as signals:
        yield signals
