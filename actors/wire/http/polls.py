"""Connections of which nothing but polls has come: no parser, no task and no timer of their own is needed.

Most of what a server is asked is a poll on a new connection, or one on a connection that is kept for polls.
Such a request is read by one expression, see `PlainRoutes.match_plainest`, and its answer is sent by one
call. With anything else the connection goes to Hypercorn, and what was read with it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import h11
import trio

from actors.wire.http.plain_routes import Answer, Ends, PlainRoutes, refused_before

PROMPT: Final = 10.0
"""Seconds in which a request is answered by the task that reads, which does not see meanwhile who leaves."""
FRESH: Final = 1.0
"""Seconds that a new connection has to send its request before it counts as idle."""
STUCK: Final = 600.0
"""Seconds in which a peer has to take something of what is sent to it."""
MOST_READ: Final = 1 << 16


class Resting(Protocol):
    """A connection that may be idle."""

    def stop_reading(self) -> None:
        """Nothing more is asked for: with nothing under way it ends."""


class IdleConnections:
    """Those with nothing under way, in the order in which they became so. One timer is for all of them."""

    def __init__(self, kept: float) -> None:
        """`kept`: seconds after which one ends."""
        self._kept = kept
        self._since: dict[Resting, tuple[float, float]] = {}
        self._some = trio.Event()

    def put(self, connection: Resting, spared: float = 0.0) -> None:
        """It is idle from now on; for `spared` seconds it is not ended for another one."""
        self._since.pop(connection, None)
        self._since[connection] = trio.current_time(), spared
        self._some.set()

    def drop(self, connection: Resting) -> None:
        """It is not idle any more."""
        self._since.pop(connection, None)

    def end_longest(self) -> bool:
        """Whether there was one that may be ended for another."""
        now = trio.current_time()
        waiting = self._since.items()
        connection = next((one for one, (since, spared) in waiting if since + spared <= now), None)
        if connection is not None:
            self._end(connection)
        return connection is not None

    def end_all(self) -> None:
        for connection in list(self._since):
            self._end(connection)

    async def run(self) -> None:
        """End each when its time is over."""
        while True:
            while not self._since:
                self._some = trio.Event()
                await self._some.wait()
            connection, (since, _) = next(iter(self._since.items()))
            if since + self._kept <= trio.current_time():
                self._end(connection)
            else:
                await trio.sleep_until(since + self._kept)

    def _end(self, connection: Resting) -> None:
        del self._since[connection]
        connection.stop_reading()


@dataclass(frozen=True, slots=True)
class Answered:
    """`data` is what is sent; `closes`: the connection ends with it."""

    data: bytes
    closes: bool


@dataclass(frozen=True, slots=True)
class Other:
    """What was read that is not answered here. `is_apps`: it is a poll that the app answers, as there was no
    prompt answer; nothing was changed by it."""

    read: bytes
    is_apps: bool = False


NOTHING: Final = Other(b"")


@dataclass(frozen=True, slots=True)
class Polls:
    """How those of a server are answered. `common` makes the headers of all answers."""

    plain: PlainRoutes
    idle: IdleConnections
    common: Callable[[], list[tuple[bytes, bytes]]]

    async def answer(self, read: bytes, ends: Ends, connection: Resting) -> Answered | Other:
        """What comes of that which was read. The connection is not idle meanwhile."""
        asked = self.plain.match_plainest(read, ends)
        if asked is None or asked.may_wait:
            return Other(read)
        self.idle.drop(connection)
        refused_before.set(False)
        answer = None
        with trio.move_on_after(PROMPT):
            answer = await self.plain.answer(asked)
        if answer is None:
            return Other(read, is_apps=True)
        return Answered(write_answer(answer, self.common(), closes=asked.closes), asked.closes)


class PolledConnection:
    """One that was accepted. See the module."""

    def __init__(self, sock: socket.socket, polls: Polls, closing: Callable[[], bool], ends: Ends) -> None:
        """`closing`: whether connections end with what they are answered."""
        self.sock: Final = sock
        self._polls = polls
        self._closing = closing
        self._ends = ends
        polls.idle.put(self, FRESH)

    def stop_reading(self) -> None:
        """See `Resting`."""
        with suppress(OSError):  # its peer has gone by itself
            self.sock.shutdown(socket.SHUT_RD)

    async def run(self) -> Other | None:
        """Answer until something else than a poll comes, which is returned; None: the connection is over.
        Raises OSError where the peer has gone."""
        sock, first = self.sock, True
        while True:
            try:
                read = sock.recv(MOST_READ)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
                continue
            if not read:
                return None
            answered = await self._polls.answer(read, self._ends, self)
            if isinstance(answered, Other):
                return answered
            await _send(sock, answered.data)
            if answered.closes or self._closing():
                return None
            self._polls.idle.put(self)
            if not first:
                # Others have a turn, whoever sends one request behind the other.
                await trio.lowlevel.wait_readable(sock)
            first = False


def write_answer(answer: Answer, common: list[tuple[bytes, bytes]], *, closes: bool) -> bytes:
    """As h11 writes it, to the byte. `common`: headers of all answers."""
    told = tuple(answer.headers.items())
    first, others = _head(answer.status, answer.content_type, told, tuple(common), closes)
    return b"%scontent-length: %d\r\n%s%s" % (first, len(answer.body), others, answer.body)


@lru_cache(maxsize=256)  # those of a second are alike, up to the length
def _head(
    status: int,
    content_type: str,
    headers: tuple[tuple[str, str], ...],
    common: tuple[tuple[bytes, bytes], ...],
    closes: bool,
) -> tuple[bytes, bytes]:
    """What is before the length and behind it. h11 refuses headers that are none."""
    told = [(name.lower().encode(), value.encode()) for name, value in headers]
    response = h11.Response(
        status_code=status,
        headers=[
            (b"content-type", content_type.encode()),
            *told,
            *common,
            *([(b"Connection", b"close")] if closes else []),
        ],
    )
    first, *others = [b"%s: %s\r\n" % header for header in response.headers.raw_items()]
    return b"HTTP/1.1 %d \r\n%s" % (status, first), b"".join([*others, b"\r\n"])


async def _send(sock: socket.socket, data: bytes) -> None:
    """Raises OSError where the peer has gone, or takes nothing."""
    rest = memoryview(data)
    while True:
        with suppress(BlockingIOError):
            rest = rest[sock.send(rest) :]
        if not rest:
            return
        with trio.move_on_after(STUCK) as stuck:
            await trio.lowlevel.wait_writable(sock)
        if stuck.cancelled_caught:
            raise TimeoutError("nothing is taken of an answer")
