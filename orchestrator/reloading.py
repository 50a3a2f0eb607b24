"""The settings as they hold while the server runs, and reading them again.

All is read and looked at first; with a mistake anywhere nothing changes. What changes then is told to
whoever goes by it: `services` and `limits` are the same objects before and after, what is kept elsewhere is
changed by `on_change`. What cannot change in a running server, as its port, is named: it waits for a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from actors.config.tables import SettingsError
from actors.domain.service import ServiceLimits
from actors.kernel.actor import ActorError
from actors.ports.ledger import LedgerError
from actors.process.log_lines import find_level, set_level
from orchestrator.access.limits import Limits
from orchestrator.config.changes import Changes, find_changes, find_unmovable
from orchestrator.config.settings import FileCheck, Settings
from orchestrator.errors import OrchestratorError
from orchestrator.startup import find_mistakes

log: Final = logging.getLogger("orchestrator")


class BadSettings(OrchestratorError):
    """The settings that were read have these `mistakes`; nothing was changed."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("nothing was changed: " + "; ".join(mistakes))
        self.mistakes = tuple(mistakes)


class NothingToRead(OrchestratorError):
    """This server's settings come from nowhere that could be read again."""


class CurrentServices(Mapping[str, ServiceLimits]):
    """The services by name, as they are set now. Who iterates sees those of when that began."""

    def __init__(self, services: Mapping[str, ServiceLimits]) -> None:
        self.now = services

    def __getitem__(self, name: str) -> ServiceLimits:
        return self.now[name]

    def __contains__(self, name: object) -> bool:
        return name in self.now

    def __iter__(self) -> Iterator[str]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


class RunningSettings:
    """`settings` hold now. `read` reads them anew from where they came, and looks at their files too; None:
    from nowhere."""

    def __init__(self, settings: Settings, read: Callable[[FileCheck], Settings] | None = None) -> None:
        self.settings = settings
        self.services: Final = CurrentServices(settings.services)
        self.limits: Final[Limits] = settings.limits
        self.on_change: Final[list[Callable[[Settings], Awaitable[None]]]] = []
        """Are called with what holds from now on, also if nothing is other than before."""
        self.note_signal: Callable[[str], Awaitable[None]] = _note_nothing
        """Is told what came of reading them for a signal."""
        self.begun: Final = trio.Event()
        """The server runs, and all who go by the settings are there."""
        self._read = read
        self._one_at_a_time = trio.Lock()

    async def reload(self, note: Callable[[str], Awaitable[None]] | None = None) -> Changes:
        """Read the settings again, and go by them; as soon as the server runs. `note` is told what changes,
        before it does, or why nothing does. Raises BadSettings, NothingToRead, what `note` raises, and
        NoAnswer when somebody could not be told: then ask again."""
        read = self._read
        if read is None:
            raise NothingToRead("this server was started without settings that could be read again")
        await self.begun.wait()
        async with self._one_at_a_time:
            note = _note_nothing if note is None else note
            try:
                found = await trio.to_thread.run_sync(_read_changes, self.settings, read)
            except BadSettings as error:
                await note(str(error))
                raise
            if find_level("orchestrator") not in (None, found.settings.log_level, self.settings.log_level):
                # By an order, which holds until now.
                back = f"log_level (back to {found.settings.log_level})"
                found = replace(found, made=(*(one for one in found.made if one != "log_level"), back))
            await note(", ".join(found.made) or "nothing changed")
            self.settings = found.settings
            self.services.now = found.settings.services
            self.limits.change_to(found.settings.limits)
            set_level("orchestrator", found.settings.log_level)
            for warning in found.settings.warnings:
                log.warning("%s", warning)
            for tell in self.on_change:
                await tell(found.settings)
        log.info("settings were read again; changed: %s", ", ".join(found.made) or "nothing")
        if found.after_restart:
            log.warning("settings that change with a restart only: %s", ", ".join(found.after_restart))
        return found

    async def reload_for_signal(self) -> None:
        """The same for who cannot be answered: the log says what came of it."""
        try:
            await self.reload(self.note_signal)
        except BadSettings as error:
            for line in error.mistakes:
                log.error("settings were not read again: %s", line)
        except (ActorError, LedgerError, NothingToRead) as error:
            log.error("settings were not read again: %s", error)


async def _note_nothing(_: str) -> None:
    """Nobody keeps it."""


def _read_changes(before: Settings, read: Callable[[FileCheck], Settings]) -> Changes:
    try:
        settings = read(find_mistakes)
    except SettingsError as error:
        raise BadSettings(error.mistakes) from error
    if mistakes := find_unmovable(before, settings):
        raise BadSettings(mistakes)
    return find_changes(before, settings)
