"""A cloud that is slow, forgets machines for a moment, loses its answers, throttles, and whose machines may
fail to boot. Under the mock clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from actors.domain.scaling import Machine, MachineEnd, UnreadableMachine
from actors.ports.scaling import ProviderError


class FakeProvider:
    """Implements `actors.ports.scaling.Provider`. `boot` is called with a token once its machine is up,
    `ended` when it is gone. Times are monotonic seconds; the `…_until` hold until then."""

    name = "fake"
    owner = "ab" * 16

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        boot: Callable[[str], None] = lambda _: None,
        ended: Callable[[str], None] = lambda _: None,
        boot_seconds: float = 30.0,
    ) -> None:
        self._nursery = nursery
        self._boot = boot
        self._ended = ended
        self.boot_seconds = boot_seconds
        self.machines: dict[str, Machine] = {}
        self.requests: list[str] = []
        self.lists = 0
        self.made: list[str] = []
        self.terminated: list[str] = []
        self.create_delay: Callable[[], float] = lambda: 0.5
        self.list_delay: Callable[[], float] = lambda: 0.2
        self.terminate_delay: Callable[[], float] = lambda: 0.5
        self.throttled_until = 0.0
        self.lost_answers = 0
        self.boots_fail = False
        self.listed_twice = False
        self.strangers: list[Machine] = []
        self.unreadable: list[UnreadableMachine] = []
        self.honours_tokens = True
        self.crash: Exception | None = None
        self._forgotten: dict[str, float] = {}
        self._forgets_all = 0
        self._numbers = itertools.count(1)

    def forget(self, token: str, until: float) -> None:
        """Leave a machine out of what is listed."""
        self._forgotten[token] = until

    def forget_all(self, answers: int) -> None:
        """That many answers list nothing."""
        self._forgets_all = answers

    def foreign(self, token: str) -> Machine:
        """A machine that nobody has a record of."""
        return self._make(token, "dock")

    def stranger(self, token: str, owner: str = "") -> Machine:
        """A machine of somebody else, which is listed all the same."""
        machine = Machine(f"x-{len(self.strangers)}", token, "dock", running=True, owner=owner)
        self.strangers.append(machine)
        return machine

    def take_away(self, end: MachineEnd) -> None:
        """All machines have ended so, and are listed still."""
        for machine_id, machine in self.machines.items():
            self.machines[machine_id] = replace(machine, running=False, ended=machine.ended or end)

    async def create(self, token: str, service: str) -> Machine:
        self._refuse()
        self.requests.append(token)
        await trio.sleep(self.create_delay())
        known = next((one for one in self.machines.values() if one.token == token), None)
        machine = known if known is not None and self.honours_tokens else self._make(token, service)
        if self.lost_answers > 0:
            self.lost_answers -= 1
            raise ProviderError("the connection was closed")
        return machine

    async def list(self) -> Sequence[Machine | UnreadableMachine]:
        self._refuse()
        self.lists += 1
        await trio.sleep(self.list_delay())
        if self._forgets_all > 0:
            self._forgets_all -= 1
            return []
        now = trio.current_time()
        seen = [one for one in self.machines.values() if now >= self._forgotten.get(one.token, 0.0)]
        return [*self.strangers, *self.unreadable, *seen, *(seen if self.listed_twice else ())]

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        self._refuse()
        await trio.sleep(self.terminate_delay())
        for machine_id in machine_ids:
            self.terminated.append(machine_id)
            machine = self.machines.pop(machine_id, None)
            if machine is not None:
                self._ended(machine.token)

    def _make(self, token: str, service: str) -> Machine:
        machine = Machine(f"i-{next(self._numbers)}", token, service, running=True, owner=self.owner)
        self.machines[machine.machine_id] = machine
        self.made.append(token)
        if not self.boots_fail:
            self._nursery.start_soon(self._boots, machine)
        return machine

    async def _boots(self, machine: Machine) -> None:
        await trio.sleep(self.boot_seconds)
        if machine.machine_id in self.machines:
            self._boot(machine.token)

    def _refuse(self) -> None:
        if self.crash is not None:
            raise self.crash
        if trio.current_time() < self.throttled_until:
            raise ProviderError("RequestLimitExceeded", certain=True)
