"""Connections that simulated nodes open, over which they are asked: the dialler and the store of connections
that the product has, on a network that ends them without a word."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio
from simulation.clock import sleep

from node.host.dialling import Dialler, NotOpened

if TYPE_CHECKING:
    from simulation.machines import Machine
    from simulation.world import World

UNHEARD = 10.0
"""Seconds after which either end notices that the other one is not there any more."""


class Connection:
    """One that a life of a node's process has opened. Implements what `DialledStreams` asks of a
    `DialledStream`, and what the dialler asks of a socket."""

    came = b""

    def __init__(self, machine: Machine, reachable: Callable[[], bool]) -> None:
        self.machine = machine
        self.came_from = machine.name
        self.over = trio.Event()
        """The orchestrator has closed it."""
        self.asked = False
        self.news = trio.Event()
        self._noticed_at = math.inf
        """When an end that has come is known to who is left."""
        self._reachable = reachable

    @property
    def socket(self) -> Connection:
        return self

    @property
    def lives(self) -> bool:
        """Whether something that is sent over it arrives."""
        return self._noticed_at == math.inf and not self.over.is_set()

    def readable(self) -> bool:
        """Whether its end has come to the orchestrator."""
        return self.over.is_set() or trio.current_time() >= self._noticed_at

    def end(self, *, told: bool) -> None:
        """An end of it is gone, or what is between them has forgotten it. `told`: there is a kernel that says
        so."""
        if self._noticed_at == math.inf:
            at_once = told and self._reachable()
            self._noticed_at = trio.current_time() + (0.0 if at_once else UNHEARD)
            self.news.set()

    def ask(self) -> None:
        self.asked = True
        self.news.set()

    def close(self) -> None:
        self.over.set()
        self.news.set()


async def until_asked(connection: Connection) -> bool:
    """Stands in for the wait for what comes over a connection."""
    await connection.news.wait()
    if not connection.asked and not connection.readable():
        await sleep(UNHEARD)
    return connection.asked


class SimulatedDialler(Dialler):
    """`Dialler`, on this network."""

    def __init__(self, world: World, machine: Machine, rng: random.Random) -> None:
        nothing: Any = None
        super().__init__("http://orchestrator", machine.node_id, nothing, rng, trust=nothing)
        self._world = world
        self._machine = machine

    async def serve(self) -> None:
        """What it opens belongs to this life of the node's process. Until cancelled."""
        give, taken = trio.open_memory_channel[Any](math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run, give)
            async for _ in taken:
                pass

    async def _open(self) -> Any:
        world, machine = self._world, self._machine
        await sleep(world.latency(machine))
        if not world.reachable(machine):
            await trio.sleep_forever()  # the dialler gives up
        epoch = world.epoch
        if epoch is None or not epoch.alive:
            raise NotOpened("connection refused")
        connection = Connection(machine, lambda: world.reachable(machine))
        machine.connections.append(connection)
        world.nursery.start_soon(epoch.keep, machine.node_id, connection)
        return connection
