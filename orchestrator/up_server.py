"""The server of `orchestrator up`, in a process of its own beside the one that keeps it."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

import trio

from actors.domain.node import NodeAddress
from actors.domain.service import ServiceLimits
from orchestrator.config.scaling import for_up
from orchestrator.config.settings import SERVICE_VARIABLE, VARIABLES, Settings
from orchestrator.server import serve_orchestrator
from orchestrator.up import Serving

log: Final = logging.getLogger("orchestrator.up")

SERVICE: Final = "example"
_READ_HERE: Final = "OPEN_LOCAL"


def read_serving(told: IO[bytes]) -> Serving | None:
    """What to serve, once that is told; None if everything ends before. Blocks."""
    line = told.readline()
    return Serving.of_line(line) if line else None


async def serve_told(
    serving: Serving, told: IO[bytes], *, shutdown: trio.Event, on_bound: Callable[[str], None]
) -> None:
    """Serve until `shutdown` is set. Nodes that were made with the load end with it where `told` has ended,
    as that is the end of everything. Raises what the server raises when it cannot start."""
    if ignored := find_ignored(os.environ):
        verb = "reads it" if len(ignored) == 1 else "reads them"
        log.warning("the server of `up` ignores %s: `orchestrator server` %s", ", ".join(ignored), verb)
    await serve_orchestrator(
        settings_of(serving), shutdown=shutdown, on_bound=on_bound, end_machines=lambda: _has_ended(told)
    )


def find_ignored(environ: Mapping[str, str]) -> list[str]:
    """The variables that set something of a server, and nothing of the one here; its nodes read their own."""
    known = (*VARIABLES, *(name for name in environ if SERVICE_VARIABLE.fullmatch(name)))
    return sorted(name for name in known if environ.get(name) and name != _READ_HERE)


def settings_of(serving: Serving) -> Settings:
    home = Path(serving.data) / "server"
    limits = ServiceLimits(
        SERVICE,
        runs_per_user=serving.runs_per_user,
        max_runs=serving.max_runs,
        addresses=tuple(NodeAddress(url, services=(SERVICE,)) for url in serving.nodes),
    )
    return Settings(
        port=serving.port,
        db_path=home / "db.sqlite",
        data_path=home / "data",
        services={SERVICE: limits},
        scaling={}
        if serving.autoscale is None
        else {SERVICE: for_up(SERVICE, *serving.autoscale, serving.slots)},
        node_token=serving.node_token,
        open_local=os.environ.get(_READ_HERE) or "auto",
    )


def _has_ended(told: IO[bytes]) -> bool:
    """Whether the other end is closed; nothing more is written to it."""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    return bool(poll.poll(0))
