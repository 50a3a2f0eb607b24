"""Reading the node's settings again while it runs. What changes then is what its declaration says; the rest
is named, and waits for a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Final

import trio

from actors.config.tables import SettingsError
from actors.process.log_lines import set_level
from node.settings import SETTINGS, NodeSettings

log: Final = logging.getLogger("node")


class RunningSettings:
    """`settings` hold now. `read` reads them anew from where they came."""

    def __init__(self, settings: NodeSettings, read: Callable[[], NodeSettings]) -> None:
        self.settings = settings
        self._read = read
        self._one_at_a_time = trio.Lock()

    async def reload(self) -> None:
        """Go by what is set now. The log says what came of it; with a mistake anywhere nothing changes."""
        async with self._one_at_a_time:
            try:
                read = await trio.to_thread.run_sync(self._read)
            except SettingsError as error:
                for line in error.mistakes:
                    log.error("settings were not read again: %s", line)
                return
            before = self.settings
            names = [field.name for field in fields(NodeSettings)]
            differ = [name for name in names if getattr(before, name) != getattr(read, name)]
            made = [name for name in differ if name in SETTINGS and SETTINGS[name].live]
            self.settings = replace(before, **{name: getattr(read, name) for name in made})
            set_level("node", self.settings.log_level)
            log.info("settings were read again; changed: %s", ", ".join(made) or "nothing")
            if later := [name for name in differ if name not in made]:
                log.warning("settings that change with a restart only: %s", ", ".join(later))
