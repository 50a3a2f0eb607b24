"""A WebSocket over a stream, from either end: whole binary messages, bounded in size.

Pings are sent and answered, and a close is the end. Nothing else of the protocol is used: no text, no
compression.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request
from wsproto.utilities import RemoteProtocolError

from actors.wire.errors import WireError
from actors.wire.link.frames import BINARY, CLOSE, PING, PONG, FrameBuffer, NoWebSocket, encode
from actors.wire.sockets import receive_some, send_now

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RECEIVE: Final = 128 * 1024
_HEAD: Final = 64 * 1024
"""Bytes of an answer's head."""


class NotUpgraded(WireError):
    """Who was asked for a WebSocket answered with something else; `status` is 0 for what is no HTTP."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


class LinkBroken(WireError):
    """The WebSocket has ended, or holds what is none."""


class WebSocket:
    """`asked`: this side has asked for it. `most`: bytes of a message that is taken in. `came`: what has come
    already. One task receives; whoever sends does so one after the other."""

    def __init__(self, stream: trio.abc.Stream, *, asked: bool, most: int, came: bytes = b"") -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        """Where nothing lies between: then a message costs no more than its system call."""
        self._asked = asked
        self._most = most
        self._buffer = FrameBuffer(masked=not asked, most=most)
        self._buffer.feed(came)
        self.words = bytearray()
        """What has to go out before anything else."""
        self.unsent = b""
        """What was given and the kernel has not taken yet."""
        self.wants_to_send: Callable[[], None] = lambda: None
        """Called when there are pings or pongs."""
        self.heard: Callable[[], None] = lambda: None
        """Called for whatever comes."""

    def ping(self) -> None:
        """Have the other side say something."""
        self.words += encode(PING, b"", masked=self._asked)
        self.wants_to_send()

    def give(self, messages: list[bytes]) -> bool:
        """Send them, and all words before, as far as that needs no waiting; whether it is done. If not, there
        is nothing to be given before `send_rest` has ended. Raises LinkBroken."""
        pieces = [encode(BINARY, message, masked=self._asked) for message in messages]
        if self.words:
            pieces.insert(0, bytes(self.words))
            self.words.clear()
        self.unsent = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._socket is not None:
            try:
                self.unsent = bytes(send_now(self._socket, self.unsent))
            except OSError as error:
                raise LinkBroken(f"the connection broke: {error}") from error
        return not self.unsent

    async def send_rest(self) -> None:
        """Raises LinkBroken. What was given is on its way in part if this is cancelled: nothing can be sent
        after it."""
        try:
            await self._stream.send_all(self.unsent)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise LinkBroken(f"the connection broke: {error.__cause__ or error}") from error
        self.unsent = b""

    async def receive(self) -> bytes:
        """The next message. Raises LinkBroken."""
        try:
            while True:
                while self._buffer.left and (came := self._buffer.next()) is not None:
                    code, payload = came
                    if code == BINARY:
                        return payload
                    self._take_word(code, payload)
                if self.words:
                    # For all that came together: whoever pings without end costs one send for each read.
                    self.wants_to_send()
                data = await self._receive_some()
                if not data:
                    raise LinkBroken("the other side closed the connection")
                self.heard()
                self._buffer.feed(data)
        except NoWebSocket as error:
            raise LinkBroken(f"the other side speaks no WebSocket: {error}") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise LinkBroken(f"the connection broke: {error.__cause__ or error}") from error

    async def _receive_some(self) -> bytes | bytearray:
        if self._socket is None:
            return await self._stream.receive_some(_RECEIVE)
        # Whoever sends without end leaves others their turn.
        return await receive_some(self._socket, _RECEIVE)

    def _take_word(self, code: int, payload: bytes) -> None:
        if code == PING:
            if len(self.words) > self._most:
                raise LinkBroken("the other side pings and does not read")
            self.words += encode(PONG, payload, masked=self._asked)
        elif code == CLOSE:
            reason = payload[2:].decode("utf-8", "replace")
            raise LinkBroken("the other side closed the link" + (f": {reason}" if reason else ""))

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


def accept(key: str) -> bytes:
    """The head with which a request for a WebSocket is answered; `key` is its `Sec-WebSocket-Key`."""
    token = base64.b64encode(hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    return head + b"sec-websocket-accept: " + token + b"\r\n\r\n"


def take_over(stream: trio.abc.Stream, came: bytes, most: int) -> WebSocket:
    """The side that was asked, once it has answered; `came` is what was read behind the request."""
    return WebSocket(stream, asked=False, most=most, came=came)


async def ask_for(stream: trio.abc.Stream, url: str, headers: Mapping[str, str], most: int) -> WebSocket:
    """Ask over a new connection for the WebSocket at `url`. Raises NotUpgraded, LinkBroken."""
    parts = urlsplit(url)
    connection = WSConnection(ConnectionType.CLIENT)
    given = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    asked = Request(host=parts.netloc, target=parts.path or "/", extra_headers=given)
    try:
        await stream.send_all(connection.send(asked))
        came = bytearray()
        while True:
            while (end := came.find(b"\r\n\r\n")) < 0:
                if len(came) > _HEAD:
                    raise NotUpgraded("an answer without an end of its head")
                data = await stream.receive_some(_RECEIVE)
                if not data:
                    raise LinkBroken("the other side closed the connection")
                came += data
            # What follows the head of an answer that agrees is of the WebSocket already.
            connection.receive_data(bytes(came[: end + 4]))
            del came[: end + 4]
            for event in connection.events():
                match event:
                    case AcceptConnection():
                        return WebSocket(stream, asked=True, most=most, came=bytes(came))
                    case RejectConnection(status_code=status):
                        raise NotUpgraded(f"HTTP {status} instead of a WebSocket", status)
    except RemoteProtocolError as error:
        raise NotUpgraded(f"no WebSocket: {error}") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise LinkBroken(f"the connection broke: {error.__cause__ or error}") from error
