"""Connections of which nothing but polls and small uploads has come: they need no parser and no timer of
their own.

Most of what a server is asked is a poll on a new connection, or one on a connection that is kept for polls.
Such a request is read by one expression, see `PlainRoutes.match_plainest`, and its answer is sent by one
call. With anything else the connection goes to Hypercorn, and what was read with it.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, Protocol, TypeVar

import h11
import trio

from actors.wire.http.plain_routes import Answer, Earlier, Ends, PlainRequest, PlainRoutes, earlier

PROMPT: Final = 10.0
"""Seconds in which a request is answered by the task that reads, which does not see meanwhile who leaves."""
UNWATCHED: Final = 1.0
"""Seconds for which a request is answered before who leaves is watched for: most are over by then, also those
that wait for an end."""
HALF_CLOSED: Final = 5.0
"""Seconds within which an answer has to begin for a peer that has closed its side."""
FRESH: Final = 1.0
"""Seconds that a new connection has to send its request before it counts as idle; and that a small body is
waited for."""
STUCK: Final = 600.0
"""Seconds in which a peer has to take something of what is sent to it."""
MOST_READ: Final = 1 << 16

T = TypeVar("T")


class Turns(Generic[T]):
    """Things that have so many seconds each, in the order in which that began. One timer is for all."""

    def __init__(self, seconds: float, over: Callable[[T], None]) -> None:
        """`over` is told of each whose time is over."""
        self._seconds = seconds
        self._over = over
        self._now = trio.lowlevel.current_clock().current_time
        self._since: dict[T, tuple[float, float]] = {}
        self._some = trio.Event()
        self._waits = False

    def put(self, one: T, spared: float = 0.0) -> None:
        """Its time begins; for `spared` seconds it is not ended for another one."""
        if one in self._since:
            del self._since[one]
        self._since[one] = self._now(), spared
        if self._waits:
            self._some.set()

    def drop(self, one: T) -> None:
        """Its time does not count any more."""
        if one in self._since:
            del self._since[one]

    def end_first(self) -> bool:
        """Whether there was one that may be ended for another."""
        now = self._now()
        found = next((one for one, (since, spared) in self._since.items() if since + spared <= now), None)
        if found is not None:
            self._end(found)
        return found is not None

    def end_all(self) -> None:
        for one in list(self._since):
            self._end(one)

    async def run(self) -> None:
        """End each when its time is over."""
        while True:
            while not self._since:
                self._some, self._waits = trio.Event(), True
                await self._some.wait()
                self._waits = False
                if not self._since:
                    # It was dropped by now, and no other is over sooner: not each is to wake this.
                    await trio.sleep(self._seconds)
            one, (since, _) = next(iter(self._since.items()))
            if since + self._seconds <= self._now():
                self._end(one)
            else:
                await trio.sleep_until(since + self._seconds)

    def _end(self, one: T) -> None:
        del self._since[one]
        self._over(one)


class Resting(Protocol):
    """A connection that may be idle."""

    def stop_reading(self) -> None:
        """Nothing more is asked for: with nothing under way it ends."""


@dataclass(frozen=True, slots=True)
class Other:
    """What was read that is not answered here. `is_apps`: it is a poll that the app answers; nothing was
    changed by it."""

    read: bytes
    is_apps: bool = False


class Polls:
    """How those of a server are answered."""

    def __init__(
        self,
        plain: PlainRoutes,
        idle: Turns[Resting],
        common: Callable[[], list[tuple[bytes, bytes]]],
    ) -> None:
        """`common` makes the headers of all answers of a second."""
        self.plain: Final = plain
        self.idle: Final = idle
        self.closing = False
        """Whether connections end with what they are answered."""
        self._common = common
        self._second = 0
        self._dated: tuple[tuple[bytes, bytes], ...] = ()
        self.slow: Final = Turns[PolledConnection](UNWATCHED, lambda one: one.watch())
        """What is being answered, and not watched for who leaves."""
        self._watchers: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch those who have asked for what takes long. Nothing is answered before this has started."""
        async with trio.open_nursery() as self._watchers:
            task_status.started()
            await self.slow.run()

    def watch(self, connection: PolledConnection, until: trio.CancelScope) -> None:
        """Have the answering broken off when who asked has left, while `until` lasts."""
        self._watchers.start_soon(connection.end_if_left, until)

    async def answer(self, asked: PlainRequest) -> bytes | None:
        """What is sent; None where the app has to answer."""
        earlier.set(Earlier())
        answer = await self.plain.answer(asked)
        if answer is None:
            return None
        if self._second != (now := int(time.time())):
            self._second, self._dated = now, tuple(self._common())
        return write_answer(answer, self._dated, closes=asked.closes)


class PolledConnection:
    """One that was accepted. See the module."""

    def __init__(self, sock: socket.socket, polls: Polls, ends: Ends) -> None:
        self.sock: Final = sock
        self._polls = polls
        self._ends = ends
        self._work = trio.CancelScope()
        self._watched: trio.CancelScope | None = None
        self.taken_over_by: Resting | None = None
        self.stopped = False
        """Whether this end reads nothing more than what had come by then."""
        polls.idle.put(self, FRESH)

    def stop_reading(self) -> None:
        """See `Resting`."""
        if self.taken_over_by is not None:
            self.taken_over_by.stop_reading()
            return
        self.stopped = True
        with suppress(OSError):  # its peer has gone by itself
            self.sock.shutdown(socket.SHUT_RD)

    async def run(self) -> Other | None:
        """Answer until something else than a poll comes, which is returned; None: the connection is over.
        Raises OSError where the peer has gone."""
        with self._work:
            return await self._answer_all()
        return None

    async def _answer_all(self) -> Other | None:
        sock, polls, first = self.sock, self._polls, True
        while True:
            try:
                read = sock.recv(MOST_READ)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
                continue
            if not read:
                return None
            asked = polls.plain.match_plainest(read, self._ends)
            if asked is None:
                return Other(read)
            polls.idle.drop(self)
            if asked.missing:
                read = await self._read_body(asked, read)
                if asked.missing:
                    return Other(read)
            answer = await self._answer(asked)
            if answer is None:
                return Other(read, is_apps=True)
            await _send(sock, answer)
            if asked.closes or polls.closing:
                with suppress(BlockingIOError):
                    # To close with bytes unread resets the connection, and the answer may be lost.
                    sock.recv(MOST_READ)
                return None
            polls.idle.put(self)
            if not first:
                # Others have a turn, whoever sends one request behind the other.
                await trio.lowlevel.wait_readable(sock)
            first = False

    async def _read_body(self, asked: PlainRequest, read: bytes) -> bytes:
        """What was read, and what of the request's body comes soon. For one that does not h11 waits."""
        pieces = [read]
        with trio.move_on_after(FRESH):
            while asked.missing:
                await trio.lowlevel.wait_readable(self.sock)
                with suppress(BlockingIOError):
                    # No more than that: what is behind it is another request.
                    piece = self.sock.recv(min(asked.missing, MOST_READ))
                    if not piece:
                        break
                    pieces.append(piece)
                    asked.put_body([piece])
        return b"".join(pieces)

    async def _answer(self, asked: PlainRequest) -> bytes | None:
        self._polls.slow.put(self)
        try:
            return await self._polls.answer(asked)
        finally:
            self._polls.slow.drop(self)
            if self._watched is not None:
                self._watched.cancel()
                self._watched = None

    def watch(self) -> None:
        """From now on who leaves is not answered any more."""
        self._watched = trio.CancelScope()
        self._polls.watch(self, self._watched)

    async def end_if_left(self, until: trio.CancelScope) -> None:
        """Break off the answering `HALF_CLOSED` seconds after the peer has closed its side, or at once when
        it has gone. Behind another request nothing is seen."""
        if until.cancel_called:
            return  # somebody else waits for what comes
        with until:
            try:
                await trio.lowlevel.wait_readable(self.sock)
                if self.sock.recv(1, socket.MSG_PEEK):
                    return
                await trio.sleep(HALF_CLOSED)
            except OSError:
                pass
            self._work.cancel()


def write_answer(answer: Answer, common: tuple[tuple[bytes, bytes], ...], *, closes: bool) -> bytes:
    """As h11 writes it, to the byte. `common`: headers of all answers."""
    headers, own = answer.headers, b""
    if not _OF_ONE_ANSWER.isdisjoint(headers):
        lines = "".join([f"{name.lower()}: {value}\r\n" for name, value in headers.items()])
        if _LINES.fullmatch(lines) and lines.count("\r\n") == len(headers):
            headers, own = {}, lines.encode()
    first, others = _head(answer.status, answer.content_type, tuple(headers.items()), common, closes)
    return b"%scontent-length: %d\r\n%s%s%s" % (first, len(answer.body), own, others, answer.body)


_OF_ONE_ANSWER: Final = frozenset({"Location", "ETag"})
"""Headers with a value that hardly another answer has: no head with them is kept."""
_LINES: Final = re.compile(
    "(?:(?!content-length:|transfer-encoding:|connection:)[a-z0-9-]+: [!-~](?:[ -~]*[!-~])?\r\n)*"
)
"""Headers that h11 writes as they are, unless it refuses one with a line end in it: then there are more."""


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
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            with trio.move_on_after(STUCK) as stuck:
                await trio.lowlevel.wait_writable(sock)
            if stuck.cancelled_caught:
                raise TimeoutError("nothing is taken of an answer") from None
        if not rest:
            return
