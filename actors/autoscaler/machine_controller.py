"""The machines of one provider: made, looked for, ended. Each in a task of its own, so that a provider that
is slow in one thing holds up neither the others nor the AutoScaler; what fails is tried again with growing
delays and said in `trouble`.

What a cloud says is not always so (it forgets a machine for a moment, its answer is lost after it has made
one), hence these rules, to which the code below refers by number:

1. A machine is asked for under its token, and after a lost answer it is looked for before it is asked for
   again, under the same token: the same request sent twice boots one machine.
2. A machine is believed gone only after several answers without it over a time, and never while its node is
   in touch: one empty answer ends nothing. An answer says nothing of what came into being while it was on
   its way.
3. A machine of ours that is listed and has no record is ended, as nobody else would: none is paid for unseen.
   So is the second one of a record. Before that its node has a moment to come back to the pool, as after a
   restart of ours, and then it is adopted.
4. Directly before a machine is ended it is asked once more whether it may be (`may_end`): since the decision
   its node may have come back, or have been given jobs by a Sender that was started anew.
5. What was never asked for ends without a call.
6. A machine is ours only if the provider tells us as its owner. Any other one is somebody else's, whatever
   its token says: it is neither adopted nor ended, and said once.
7. What is listed and cannot be read may be any machine: while there is such, nobody is missed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import trio

from actors.autoscaler.machines import LIVE, TrackedMachine, TrackedMachines
from actors.domain.phrases import name_some
from actors.domain.scaling import Machine, MachineEnd, MachineState, UnreadableMachine
from actors.kernel.actor import ActorError, Doorbell
from actors.kernel.backoff import Backoff
from actors.ports.ledger import LedgerError
from actors.ports.scaling import Provider, ProviderError
from actors.ports.world import Random

log: Final = logging.getLogger("orchestrator.scaling")

T = TypeVar("T")
AT_ONCE: Final = 50
"""Machines that one call ends."""


class MachineController:
    """See the module. `in_pool`: the tokens of machines whose nodes serve these services and are in touch.
    `boot_failed` is told of a machine that went away before its node came; `changed` that
    there is something new to see. `creates_at_once`: how many machines are asked for at the same time; lists
    and terminations go one after the other."""

    def __init__(
        self,
        provider: Provider,
        services: Sequence[str],
        machines: TrackedMachines,
        *,
        rng: Random,
        may_end: Callable[[Sequence[TrackedMachine]], Awaitable[Sequence[TrackedMachine]]],
        in_pool: Callable[[Sequence[str]], Awaitable[Collection[str]]],
        boot_failed: Callable[[str, int], None],
        changed: Callable[[], None],
        deadline: float = 120.0,
        list_every: float = 30.0,
        gone_answers: int = 3,
        gone_after: float = 60.0,
        creates_at_once: int = 4,
        orphan_grace: float = 10.0,
    ) -> None:
        self.provider = provider
        self.services = list(services)
        self._machines = machines
        self._may_end = may_end
        self._in_pool = in_pool
        self._boot_failed = boot_failed
        self._changed = changed
        self._deadline = deadline
        self._list_every = list_every
        self._gone_answers = gone_answers
        self._gone_after = gone_after
        self._creates_at_once = creates_at_once
        self._orphan_grace = orphan_grace
        self._creating = _CallState("create", rng)
        self._listing = _CallState("list", rng)
        self._ending = _CallState("terminate", rng)
        self._list_lock = trio.Lock()
        self._orphans: dict[str, tuple[Machine, float]] = {}
        self._strangers: set[str] = set()
        self._unreadable = ""

    @property
    def trouble(self) -> str:
        kinds = (self._creating, self._listing, self._ending)
        failing = [
            f"{self.provider.name} cannot {kind.name}: {kind.trouble}" for kind in kinds if kind.trouble
        ]
        return "; ".join([*failing, self._unreadable] if self._unreadable else failing)

    def lists_unrecorded(self, token: str) -> bool:
        """Whether the provider tells a machine of ours with this token, of which there is no record."""
        return any(machine.token == token for machine, _ in self._orphans.values())

    def start(self, nursery: trio.Nursery) -> None:
        for _ in range(self._creates_at_once):
            nursery.start_soon(self._create_for_ever)
        nursery.start_soon(self._list_for_ever)
        nursery.start_soon(self._end_for_ever)

    def ring(self) -> None:
        """Something is wanted, or is to be ended."""
        self._creating.bell.ring()
        self._ending.bell.ring()

    # ------------------------------------------------------------------ making

    async def _create_for_ever(self) -> None:
        kind = self._creating
        while True:
            await kind.pause()
            wanted = [
                one
                for one in self._machines.of(self.services)
                if one.state is MachineState.WANTED and not one.creating
            ]
            if not wanted:
                await kind.bell.wait()
                continue
            if len(wanted) > 1:
                kind.bell.ring()  # there is work for another task
            tracked = wanted[0]
            tracked.creating = True
            try:
                await kind.attempt(self._create(tracked))
            finally:
                tracked.creating = False
            self._changed()

    async def _create(self, tracked: TrackedMachine) -> None:
        found = await self._find(tracked) if tracked.asked else None  # rule 1
        if found is None:
            if tracked.state is not MachineState.WANTED:
                return
            earlier, tracked.asked = tracked.asked, True
            try:
                found = await self._call(self.provider.create(tracked.token, tracked.record.service))
            except ProviderError as error:
                tracked.asked = earlier or not error.certain
                raise
        await self._machines.identify(tracked, found.machine_id)

    async def _find(self, tracked: TrackedMachine) -> Machine | None:
        """The machine that an earlier request may have made."""
        machines = await self._list()
        return next((one for one in machines if one.token == tracked.token), None)

    # ------------------------------------------------------------------ looking

    async def _list_for_ever(self) -> None:
        kind = self._listing
        while True:
            await kind.pause()
            await kind.attempt(self._list())
            doubtful = any(one.missed or self._is_unknown(one) for one in self._machines.of(self.services))
            wait = min(self._list_every, self._gone_after / self._gone_answers) if doubtful else None
            with trio.move_on_after(self._list_every if wait is None else wait):
                await kind.bell.wait()

    def _is_unknown(self, tracked: TrackedMachine) -> bool:
        """To be ended, and the provider's name of it is not known, if it exists at all."""
        return tracked.state is MachineState.ENDING and tracked.record.machine_id is None

    async def _list(self) -> Sequence[Machine]:
        async with self._list_lock:
            began = trio.current_time()
            told = await self._call(self.provider.list())
            machines = [one for one in told if isinstance(one, Machine) and one.owner == self.provider.owner]
            self._tell_unreadable([one.text for one in told if isinstance(one, UnreadableMachine)])
            self._tell_strangers(
                [one for one in told if isinstance(one, Machine) and one.owner != self.provider.owner]
            )
            await self._compare(machines, began)
            return machines

    def _tell_unreadable(self, texts: Sequence[str]) -> None:
        """Loud as long as it lasts, in the log once."""
        before, self._unreadable = self._unreadable, ""
        if texts:
            self._unreadable = f"{self.provider.name} lists what cannot be read ({len(texts)}): {texts[0]}"
            if not before:
                log.warning("machines: %s", self._unreadable)

    def _tell_strangers(self, machines: Sequence[Machine]) -> None:
        """Rule 6."""
        ids = {machine.machine_id for machine in machines}
        if new := sorted(ids - self._strangers):
            log.warning(
                "%s lists machines of others, which are left alone: %s",
                self.provider.name,
                name_some(new, 5),
            )
        self._strangers = ids

    async def _compare(self, machines: Sequence[Machine], began: float) -> None:
        by_token: dict[str, list[Machine]] = {}
        for machine in machines:
            if machine.ended is not None:
                await self._has_ended(machine, machine.ended)
        for machine in (one for one in machines if one.ended is None):
            by_token.setdefault(machine.token, []).append(machine)
        for token, found in by_token.items():
            tracked = self._machines.get(token)
            if tracked is None:
                if not self._machines.was_ended(token):
                    self._are_orphans(found, "it has no record")
                continue
            ours = next((one for one in found if one.machine_id == tracked.record.machine_id), found[0])
            tracked.missed = 0
            tracked.note = ours.note
            if ours.waiting:
                tracked.alone_since = trio.current_time()  # it does not boot yet
            if tracked.record.machine_id is None or tracked.record.machine_id not in {
                m.machine_id for m in found
            }:
                await self._machines.identify(tracked, ours.machine_id)
            doubles = [one for one in found if one.machine_id != ours.machine_id]
            self._are_orphans(doubles, "made twice for one request")
        for tracked in () if self._unreadable else self._machines.of(self.services):
            # Rules 2 and 7.
            if tracked.token not in by_token and tracked.known_at < began and not tracked.creating:
                await self._is_missed(tracked, began)
        ending = [one for one in self._machines.of(self.services) if one.state is MachineState.ENDING]
        if any(not self._is_unknown(one) for one in ending):
            self._ending.bell.ring()

    async def _has_ended(self, machine: Machine, end: MachineEnd) -> None:
        """The provider says so, and why."""
        tracked = self._machines.get(machine.token)
        if tracked is None or tracked.record.machine_id not in (None, machine.machine_id):
            return
        booting = tracked.state is MachineState.BOOTING
        if await self._machines.move(
            tracked, (*LIVE, MachineState.ENDING), MachineState.ENDED, reason=end.reason
        ):
            await self._machines.note(tracked.record.service, "gone", tracked.name, end.reason)
            if booting and not end.blameless:
                self._boot_failed(tracked.record.service, 1)
            self._changed()

    async def _is_missed(self, tracked: TrackedMachine, began: float) -> None:
        if tracked.state is MachineState.WANTED or (tracked.record.machine_id is None and not tracked.asked):
            return
        if not tracked.missed:
            tracked.missed_since = began
        tracked.missed += 1
        over_a_time = began - tracked.missed_since >= self._gone_after
        if tracked.missed < self._gone_answers or not over_a_time or tracked.in_touch:
            return
        booting = tracked.state is MachineState.BOOTING
        reason = f"{self.provider.name} has not known it for {began - tracked.missed_since:.0f} s"
        if await self._machines.move(
            tracked, (*LIVE, MachineState.ENDING), MachineState.ENDED, reason=reason
        ):
            await self._machines.note(tracked.record.service, "gone", tracked.name, reason)
            if booting:
                self._boot_failed(tracked.record.service, 1)
            self._changed()

    def _are_orphans(self, machines: Sequence[Machine], reason: str) -> None:
        for machine in machines:
            if machine.machine_id not in self._orphans:
                log.warning(
                    "machine %s of service %s: %s; it is ended", machine.machine_id, machine.service, reason
                )
                self._orphans[machine.machine_id] = (machine, trio.current_time())
                self._ending.bell.ring()
                self._changed()

    # ------------------------------------------------------------------ ending

    async def _end_for_ever(self) -> None:
        kind = self._ending
        while True:
            await kind.pause()
            if not await kind.attempt(self._end_some()):
                continue
            with trio.move_on_after(1.0 if self._orphans else self._list_every):
                await kind.bell.wait()

    async def _end_some(self) -> None:
        ending = [one for one in self._machines.of(self.services) if one.state is MachineState.ENDING]
        for tracked in ending:
            if tracked.record.machine_id is None and not tracked.asked and not tracked.creating:  # rule 5
                await self._machines.move(tracked, (MachineState.ENDING,), MachineState.ENDED)
        known = [one for one in ending if one.record.machine_id is not None]
        for start in range(0, len(known), AT_ONCE):
            await self._end(await self._may_end(known[start : start + AT_ONCE]))  # rule 4
        await self._end_orphans()

    async def _end(self, some: Sequence[TrackedMachine]) -> None:
        if not some:
            return
        ids = [one.record.machine_id for one in some if one.record.machine_id is not None]
        await self._call(self.provider.terminate(ids))
        for tracked in some:
            await self._machines.move(tracked, (MachineState.ENDING,), MachineState.ENDED)
        self._changed()

    async def _end_orphans(self) -> None:
        """Those that have stayed without a record for a while (rule 3)."""
        self._orphans = {name: one for name, one in self._orphans.items() if self._is_orphan(one[0])}
        ripe = trio.current_time() - self._orphan_grace
        some = [machine for machine, since in self._orphans.values() if since <= ripe]
        used = await self._in_pool(self.services) if some else ()
        if not (some := [machine for machine in some if machine.token not in used]):
            return
        await self._call(self.provider.terminate([one.machine_id for one in some]))
        for machine in some:
            self._orphans.pop(machine.machine_id, None)
            reason = "the provider has it and no record wants it"
            await self._machines.note(machine.service, "terminate", machine.machine_id, reason)

    def _is_orphan(self, machine: Machine) -> bool:
        """Without a record, or a second one for its record."""
        tracked = self._machines.get(machine.token)
        return tracked is None or tracked.record.machine_id not in (None, machine.machine_id)

    # ------------------------------------------------------------------

    async def _call(self, call: Awaitable[T]) -> T:
        with trio.move_on_after(self._deadline):
            return await call
        raise ProviderError(f"no answer within {self._deadline:g} s")


class _CallState:
    """One kind of call: its bell, its delays after errors, its trouble."""

    def __init__(self, name: str, rng: Random) -> None:
        self.name = name
        self.bell = Doorbell()
        self.trouble = ""
        self._backoff = Backoff(rng, first=1.0, most=30.0)
        self._not_before = 0.0

    async def pause(self) -> None:
        """After an error, until it is time to try again."""
        while True:
            await trio.sleep_until(self._not_before)
            if trio.current_time() >= self._not_before:
                return

    async def attempt(self, call: Awaitable[Any]) -> bool:
        """Whether it went well. Whatever a provider raises must end no machine's watch: it is said and tried
        again."""
        try:
            await call
        except Exception as error:
            self._has_failed(error)
            return False
        self._backoff.reset()
        self.trouble = ""
        return True

    def _has_failed(self, error: Exception) -> None:
        """What fails while a pause is on was under way before it, and is the same failure."""
        now = trio.current_time()
        if now >= self._not_before:
            self._not_before = now + self._backoff.next()
        self.trouble = f"{error or type(error).__name__}"
        expected = isinstance(error, ProviderError | LedgerError | ActorError)
        wait = max(0.0, self._not_before - now)
        log.warning(
            "machines: cannot %s, again in %.1f s: %s",
            self.name,
            wait,
            error,
            exc_info=None if expected else error,
        )
