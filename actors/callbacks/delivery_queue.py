"""Whose turn it is among callbacks: the places that tries have, and the lines before them.

A host is a name and a port. A receiver is one of its URLs, without the query, which is often each job's own.
The rules, to which the code below refers by number:

1. A receiver is sick if its last try failed or took long. One that is well has a few places; one that is
   sick, or was never tried, has one.
2. A host is sick if there was no connection to it, or if a receiver took long that was not known to be sick:
   a dead host is found out behind any number of URLs, and what a sick receiver does says nothing of its host.
   A quick answer, whatever it says, makes its host well.
3. A host that is well has a few places, of which its sick receivers have half; any other has one.
4. All that is sick, or at a sick host, is ailing and has half of all places: it delays nobody else.
5. Who asks to be left alone rests; no other receiver does.
6. Receivers come in turn: first for a place of their host, the sick and the others alternately, then in one
   of two lines, the well and the ailing.
7. Nothing is kept of a receiver that has no callback in hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final
from urllib.parse import urlsplit

from actors.ports.callbacks import Callback, PostAnswer, PostResult

PLACES: Final = 64
SICK_PLACES: Final = PLACES // 2
PLACES_A_HOST: Final = 4
SLOW: Final = 5.0
"""Seconds from which on a try took long."""
FEW: Final = 3
"""Tries below which a callback is given more time: others went first, or its receiver asked for rest."""


@dataclass(order=True, slots=True)
class PendingCallback:
    """A callback in hand. It is given up after `deadline`, or after `late` if it had few tries until then."""

    due: float
    seq: int
    callback: Callback = field(compare=False)
    deadline: float = field(compare=False)
    late: float = field(compare=False)
    tries: int = field(compare=False)

    @property
    def last(self) -> float:
        """From when on a failure is the last one."""
        return self.late if self.tries < FEW else self.deadline


@dataclass(slots=True, eq=False)
class _Host:
    """`parked`: its receivers that have something due and wait for a place of it; `parked_sick`: the sick
    ones. `lined`: how many have left these for the line, and may take a place soon."""

    key: tuple[str, int]
    receivers: int = 0
    active: int = 0
    active_sick: int = 0
    lined: int = 0
    well: bool = False
    sick: bool = False
    parked: deque[Receiver] = field(default_factory=deque)
    parked_sick: deque[Receiver] = field(default_factory=deque)
    sick_next: bool = False

    @property
    def free(self) -> int:  # rule 3
        return (PLACES_A_HOST if self.well else 1) - self.active

    @property
    def free_sick(self) -> int:
        return min(self.free, (PLACES_A_HOST // 2 if self.well else 1) - self.active_sick)

    def next_parked(self) -> Receiver | None:
        """Whose turn it is to stand in line (rule 6)."""
        parked_sick = self.parked_sick if self.free_sick > self.lined else None
        if self.free <= self.lined or not (parked_sick or self.parked):
            return None
        if parked_sick and (self.sick_next or not self.parked):
            self.sick_next = False
            return parked_sick.popleft()
        self.sick_next = True
        return self.parked.popleft()


@dataclass(slots=True, eq=False)
class Receiver:
    """`placed`: it is parked or stands in line. `alarm`: when it is looked at again. `rests_until`: it asked
    for that."""

    key: str
    host: _Host
    waiting: list[PendingCallback] = field(default_factory=list)
    active: int = 0
    well: bool = False
    sick: bool = False
    placed: bool = False
    alarm: float | None = None
    rests_until: float = 0.0

    @property
    def has_place(self) -> bool:  # rule 1
        return self.active < (PLACES_A_HOST if self.well else 1)

    @property
    def due(self) -> float:
        return max(self.waiting[0].due, self.rests_until)

    @property
    def ailing(self) -> bool:  # rule 4
        return self.sick or self.host.sick


@dataclass(frozen=True, slots=True)
class Delivery:
    """A try that has its place. `sick` and `ailing` are as the receiver was when it began."""

    receiver: Receiver
    pending: PendingCallback
    sick: bool
    ailing: bool


class DeliveryQueue:
    """See the module. All times are monotonic."""

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, int], _Host] = {}
        self._receivers: dict[str, Receiver] = {}
        self._well: deque[Receiver] = deque()
        self._ailing: deque[Receiver] = deque()
        self._alarms: list[tuple[float, int, Receiver]] = []
        self._alarms_set = 0
        self._active = 0
        self._active_ailing = 0

    @property
    def next_alarm(self) -> float | None:
        """When something is due that is not yet."""
        return self._alarms[0][0] if self._alarms else None

    @property
    def kept(self) -> int:
        """How many hosts and receivers something is known of."""
        return len(self._hosts) + len(self._receivers)

    def add(self, pending: PendingCallback, now: float) -> None:
        receiver = self._receiver(pending.callback.url)
        heappush(receiver.waiting, pending)
        self._consider(receiver, now)

    def begin(self, now: float) -> Iterator[Delivery]:
        """Those that can begin now; each has its place until `end`."""
        while self._alarms and self._alarms[0][0] <= now:
            when, _, receiver = heappop(self._alarms)
            if receiver.alarm == when:
                receiver.alarm = None
                self._consider(receiver, now)
        while self._active < PLACES:
            if self._well:
                receiver = self._well.popleft()
                if receiver.ailing:  # since it stands in line
                    self._ailing.append(receiver)
                    continue
            elif self._ailing and self._active_ailing < SICK_PLACES:
                receiver = self._ailing.popleft()
            else:
                return
            host = receiver.host
            host.lined -= 1
            receiver.placed = False
            due = receiver.waiting and receiver.has_place and receiver.due <= now
            if due and (host.free_sick if receiver.sick else host.free) > 0:
                yield self._take_place(receiver)
            self._consider(receiver, now)
            self._unpark(host)

    def learn(self, delivery: Delivery, answer: PostAnswer, took: float) -> None:
        """What a try, which took so many seconds, says of its receiver and its host (rules 1 and 2)."""
        receiver, host, quick = delivery.receiver, delivery.receiver.host, took < SLOW
        if not answer.connected or not (quick or receiver.sick):
            host.well, host.sick = False, True
        elif quick:
            host.well, host.sick = True, False
        if answer.connected:
            receiver.well = quick and answer.result is not PostResult.FAILED
            receiver.sick = not receiver.well

    def rest(self, receiver: Receiver, until: float, now: float) -> Sequence[PendingCallback]:
        """Nothing is sent to it before `until` (rule 5). Of those that wait for it, the ones whose time is
        over are let go and given back: else all of them would have their last try once the rest is over."""
        receiver.rests_until = max(receiver.rests_until, until)
        let_go = [pending for pending in receiver.waiting if pending.last <= now]
        receiver.waiting = [pending for pending in receiver.waiting if pending.last > now]
        heapify(receiver.waiting)
        return let_go

    def end(self, delivery: Delivery, now: float, *, again: bool) -> None:
        """The try is over; `again`: its callback is wanted again when it is due."""
        receiver, host = delivery.receiver, delivery.receiver.host
        if again:
            heappush(receiver.waiting, delivery.pending)
        receiver.active -= 1
        host.active -= 1
        host.active_sick -= delivery.sick
        self._active -= 1
        self._active_ailing -= delivery.ailing
        self._consider(receiver, now)
        self._unpark(host)
        if not receiver.waiting and not receiver.active:  # rule 7
            del self._receivers[receiver.key]
            host.receivers -= 1
            if not host.receivers:
                del self._hosts[host.key]

    def _receiver(self, url: str) -> Receiver:
        key = url.partition("?")[0]
        if key not in self._receivers:
            place = _place_of(url)
            host = self._hosts.setdefault(place, _Host(place))
            host.receivers += 1
            self._receivers[key] = Receiver(key, host)
        return self._receivers[key]

    def _take_place(self, receiver: Receiver) -> Delivery:
        delivery = Delivery(receiver, heappop(receiver.waiting), receiver.sick, receiver.ailing)
        receiver.active += 1
        receiver.host.active += 1
        receiver.host.active_sick += delivery.sick
        self._active += 1
        self._active_ailing += delivery.ailing
        return delivery

    def _consider(self, receiver: Receiver, now: float) -> None:
        """Park the receiver if something of it is due and it has a place, or set its alarm."""
        if receiver.placed or not receiver.waiting or not receiver.has_place:
            return
        host = receiver.host
        if receiver.due <= now:
            receiver.placed = True
            (host.parked_sick if receiver.sick else host.parked).append(receiver)
            self._unpark(host)
        elif receiver.alarm is None or receiver.due < receiver.alarm:
            receiver.alarm = receiver.due
            self._alarms_set += 1
            heappush(self._alarms, (receiver.due, self._alarms_set, receiver))

    def _unpark(self, host: _Host) -> None:
        """Line up as many receivers as the host has places for."""
        while (receiver := host.next_parked()) is not None:
            host.lined += 1
            (self._ailing if receiver.ailing else self._well).append(receiver)


def _place_of(url: str) -> tuple[str, int]:
    try:
        split = urlsplit(url)
        return split.hostname or "", split.port or (443 if split.scheme == "https" else 80)
    except ValueError:
        return "", 0
