"""Payloads that are made ready in the thread call that takes them over, so that their start needs none of its
own. The word that somebody has set out to start one is written then, too: who starts it gives it the name by
which it counts.

What is done is remembered in memory, and done anew where that is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.domain.payload import Payload
from actors.store.durable import write_plainly
from node.confinement.grants import Grants
from node.executors.executor import HOME, PROGRESS, SCRIPT, WORK, Executor
from node.host.cards import NVIDIA
from node.runs.received import RECEIVED
from node.runs.script_check import look_at
from node.runs.workspace import MANIFEST

REMEMBERED: Final = 1024
"""Payloads at most, as some are never started. What is forgotten is done when one is."""


class ReadyStarts:
    """`leave_word` writes that word into a directory that nobody sees yet. `through`: it is to reach the disk
    before the start, so none is left here."""

    def __init__(
        self,
        executor: Executor,
        *,
        grants_of: Callable[[str], Grants],
        leave_word: Callable[[Payload, str], None],
        through: bool = False,
    ) -> None:
        self._through = through
        self._executor = executor
        self._grants_of = grants_of
        self._leave_word = leave_word
        self._options: dict[str, tuple[str, ...]] = {}

    def make_ready(self, payload: Payload, directory: str) -> None:
        """Make a payload ready whose files are in a directory that nobody sees yet, if there is nothing to be
        mended, said or written down beside that. Blocks."""
        self._options.pop(payload.key, None)
        if self._through or not self._executor.leaves_word or needs_card(self._grants_of(payload.service)):
            return
        # What goes wrong here does so again when it is started, and is said then.
        with suppress(OSError):
            if os.path.lexists(f"{directory}/{RECEIVED}"):
                return
            if (options := look_at(f"{directory}/{WORK}/{SCRIPT}")) is None:
                return
            make_places(directory)
            self._leave_word(payload, directory)
            self._options[payload.key] = options
        if len(self._options) > REMEMBERED:
            # It may be started just now, by another thread.
            for oldest in list(self._options)[:1]:
                self._options.pop(oldest, None)

    def take(self, payload: Payload) -> tuple[str, ...] | None:
        """The options that the script of a payload has for bash, if it is ready and needs no more. Once."""
        options = self._options.pop(payload.key, None)
        return None if needs_card(self._grants_of(payload.service)) else options


def needs_card(grants: Grants) -> bool:
    return NVIDIA in grants.devices


def make_places(directory: Path | str) -> None:
    """Make what a payload's directory has besides its files when it is started. Blocks. Raises `OSError`."""
    for name in (PROGRESS, HOME):
        try:
            os.mkdir(f"{directory}/{name}", 0o700)
        except FileExistsError:
            continue
    # There, so that its end finds room for it however many files the script makes.
    write_plainly(f"{directory}/{MANIFEST}", b"")
