"""Who hears of changes of payloads: listeners, subscribers, and those who wait for something to happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeAlias

import trio

from actors.domain.payload import Payload
from actors.ports.nodes import Leaving
from node.payloads.rows import Row

SUBSCRIBER_BUFFER: Final = 4096
"""Changes that a subscriber may be behind before it is cut off."""


Wanted: TypeAlias = Callable[[Payload], bool]


class _Subscriber(NamedTuple):
    owner: str | None
    """Whose payloads it follows; None: all."""
    wanted: Wanted | None


class Subscriptions:
    """Nothing here waits: a subscriber that is too slow finds its channel closed."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Sequence[Row]], None]] = []
        self._subscribers: dict[trio.MemorySendChannel[Payload], _Subscriber] = {}
        self._next: dict[str, trio.Event] = {}
        self.farewell: Leaving | None = None
        """What subscribers are told last, once the node stops."""

    def add_listener(self, listener: Callable[[Sequence[Row]], None]) -> None:
        """Have it called with what has changed, after each batch. It must not wait and must not raise."""
        self._listeners.append(listener)

    def next_change(self, key: str) -> trio.Event:
        """Set when this payload has changed after now."""
        return self._next.setdefault(key, trio.Event())

    @property
    def owners(self) -> set[str]:
        """The orchestrators that follow what becomes of their payloads here."""
        return {one.owner for one in self._subscribers.values() if one.owner is not None}

    @contextmanager
    def subscribe(
        self, owner: str | None, wanted: Wanted | None = None
    ) -> Iterator[trio.MemoryReceiveChannel[Payload]]:
        """Every change from now on, of whatever owner, that is `wanted`; None: all."""
        send, receive = trio.open_memory_channel[Payload](SUBSCRIBER_BUFFER)
        self._subscribers[send] = _Subscriber(owner, wanted)
        try:
            with receive:
                yield receive
        finally:
            self._drop(send)

    def end_subscriptions(self, farewell: Leaving) -> None:
        """Close every subscriber's channel: the node stops."""
        self.farewell = farewell
        for send in tuple(self._subscribers):
            self._drop(send)

    def publish(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if (waited_for := self._next.pop(row.payload.key, None)) is not None:
                waited_for.set()
            # Of what is released nobody outside wants to hear.
            for send, one in () if row.released else tuple(self._subscribers.items()):
                if one.wanted is not None and not one.wanted(row.payload):
                    continue
                try:
                    send.send_nowait(row.payload)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    self._drop(send)
        for listener in self._listeners:
            listener(rows)

    def _drop(self, send: trio.MemorySendChannel[Payload]) -> None:
        self._subscribers.pop(send, None)
        send.close()
