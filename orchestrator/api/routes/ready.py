"""`GET /ready`: whether the server can do its work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.kernel.actor import NoAnswer
from actors.ports.ledger import LedgerError
from actors.ports.storage import StorageError
from orchestrator.api.context import ApiContext

DEADLINE: Final = 5.0


async def run_checks(api: ApiContext) -> dict[str, str]:
    """What has to work for jobs to be taken in and to run; "ok" or the trouble."""
    checks = dict.fromkeys(("ledger", "storage", "scheduler"), f"no answer within {DEADLINE:g} s")

    async def check(name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
            checks[name] = "ok"
        except (LedgerError, StorageError, NoAnswer) as error:
            checks[name] = str(error)

    with trio.move_on_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, "ledger", api.ledger.check)
            nursery.start_soon(check, "storage", lambda: api.storage.require(0))
            nursery.start_soon(check, "scheduler", api.pool)
    return checks
