"""The terminal that a process belongs to, and whether SIGHUP says that it is gone."""

from __future__ import annotations

import os


class Terminal:
    """That of this process as it is now, if it has one."""

    def __init__(self) -> None:
        self._was_there = has_terminal()

    def was_closed(self) -> bool:
        """Whether it was there and is no more. A SIGHUP of another kind comes from somebody who asks for the
        settings to be read again."""
        return self._was_there and not has_terminal()


def has_terminal() -> bool:
    """Whether this process belongs to a terminal that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
