"""The server for any ASGI host on trio: `hypercorn -k trio orchestrator.asgi:app`, one worker.

Settings come from the environment, and from the TOML file that `ORCHESTRATOR_CONFIG` names; where to listen
is the host's business.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio
from quart_trio import QuartTrio

from actors.wire.errors import leaves
from orchestrator.config.settings import FileCheck, Settings, check_nothing, load
from orchestrator.dialled_streams import DialledStreams
from orchestrator.errors import StartError
from orchestrator.events.waiters import JobWaiters
from orchestrator.reloading import RunningSettings
from orchestrator.server import run_orchestrator
from orchestrator.startup import Address

log: Final = logging.getLogger("orchestrator")

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class LifespanApp:
    """An ASGI app that owns the actors: the task that answers the host's lifespan holds their nursery, from
    startup to shutdown."""

    def __init__(self, settings: Callable[[FileCheck], Settings], give_up: Callable[[], None]) -> None:
        """`give_up` ends the host when the actors have: a server whose core is dead must not look alive."""
        self._settings = settings
        self._give_up = give_up
        self._app: QuartTrio | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._app is None:
            raise RuntimeError("this app starts with the ASGI lifespan; the host has to support it")
        else:
            await self._app(scope, receive, send)  # type: ignore[arg-type]  # it is any scope

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # startup
        started = False
        failed: list[str] = []
        waiters = JobWaiters()
        try:
            async with trio.open_nursery() as nursery:
                if sys.getfilesystemencoding() != "utf-8":
                    raise StartError(
                        "names of files would not be UTF-8 here: start the host with PYTHONUTF8=1 in its "
                        "environment, or as `python -X utf8 -m hypercorn …`"
                    )
                settings = self._settings(check_nothing)
                here = Address()
                # The host listens, and does not say where: what the settings say has to be true.
                here.set(settings.join_url or f"http://127.0.0.1:{settings.port}")
                running = RunningSettings(settings, self._settings)
                self._app = await nursery.start(
                    run_orchestrator, settings, waiters, here, DialledStreams(), running
                )
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()  # shutdown
                waiters.close()
                nursery.cancel_scope.cancel()
        except* Exception as errors:
            failed = [str(error) for error in leaves(errors)]
            if started:
                log.critical("the orchestrator has ended by an error", exc_info=errors)
        finally:
            self._app = None
        if failed and started:
            self._give_up()
            await send({"type": "lifespan.shutdown.failed", "message": "; ".join(failed)})
        elif failed:
            await send({"type": "lifespan.startup.failed", "message": "; ".join(failed)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def settings_from_environment(check_files: FileCheck) -> Settings:
    """Raises SettingsError."""
    config = os.environ.get("ORCHESTRATOR_CONFIG")
    return load(os.environ, Path(config) if config else None, check_files=check_files)


def end_process() -> None:
    """Ask this process to end."""
    os.kill(os.getpid(), signal.SIGTERM)


app = LifespanApp(settings_from_environment, end_process)
