"""A WebSocket over a stream, from either end: whole binary messages, bounded in size.

Pings are answered, and a close is the end. Nothing else of the protocol is used: no text, no compression.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import RemoteProtocolError

from actors.wire.errors import WireError

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RECEIVE: Final = 128 * 1024


class NotUpgraded(WireError):
    """Who was asked for a WebSocket answered with something else; `status` is 0 for what is no HTTP."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


class LinkBroken(WireError):
    """The WebSocket has ended, or holds what is none."""


class _Connection(Protocol):
    def send(self, event: Event) -> bytes: ...
    def receive_data(self, data: bytes | None) -> None: ...
    def events(self) -> Iterator[Event]: ...


class WebSocket:
    """`most`: bytes of a message that is taken in. One task sends, one receives."""

    def __init__(self, stream: trio.abc.Stream, connection: _Connection, most: int) -> None:
        self._stream = stream
        self._connection = connection
        self._most = most
        self._events = connection.events()
        self._message = bytearray()
        self.pongs = bytearray()
        """What has to go out before anything else."""
        self.wants_to_send: Callable[[], None] = lambda: None
        """Called when there are pongs."""
        self.heard: Callable[[], None] = lambda: None
        """Called for whatever comes."""

    async def send(self, messages: list[bytes]) -> None:
        """Raises LinkBroken. Messages are on their way in part if this is cancelled: nothing can be sent
        after them."""
        data = b"".join(self._connection.send(BytesMessage(data=message)) for message in messages)
        pongs, self.pongs = bytes(self.pongs), bytearray()
        try:
            await self._stream.send_all(pongs + data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise LinkBroken(f"the connection broke: {error.__cause__ or error}") from error

    async def receive(self) -> bytes:
        """The next message. Raises LinkBroken."""
        while True:
            try:
                for event in self._events:
                    if (message := self._take(event)) is not None:
                        return message
                data = await self._stream.receive_some(_RECEIVE)
                if not data:
                    raise LinkBroken("the other side closed the connection")
                self.heard()
                self._connection.receive_data(bytes(data))
            except RemoteProtocolError as error:
                raise LinkBroken(f"the other side speaks no WebSocket: {error}") from error
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                raise LinkBroken(f"the connection broke: {error.__cause__ or error}") from error
            self._events = self._connection.events()

    def _take(self, event: Event) -> bytes | None:
        match event:
            case BytesMessage(data=data, message_finished=finished):
                self._message += data
                if len(self._message) > self._most:
                    raise LinkBroken(f"the other side sends more than {self._most} bytes at once")
                if finished:
                    message, self._message = bytes(self._message), bytearray()
                    return message
            case Ping():
                if len(self.pongs) > self._most:
                    raise LinkBroken("the other side pings and does not read")
                self.pongs += self._connection.send(event.response())
                self.wants_to_send()
            case CloseConnection(reason=reason):
                raise LinkBroken("the other side closed the link" + (f": {reason}" if reason else ""))
        return None

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


def accept(key: str) -> bytes:
    """The head with which a request for a WebSocket is answered; `key` is its `Sec-WebSocket-Key`."""
    token = base64.b64encode(hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    return head + b"sec-websocket-accept: " + token + b"\r\n\r\n"


def take_over(stream: trio.abc.Stream, came: bytes, most: int) -> WebSocket:
    """The side that was asked, once it has answered; `came` is what was read behind the request."""
    return WebSocket(stream, Connection(ConnectionType.SERVER, trailing_data=came), most)


async def ask_for(stream: trio.abc.Stream, url: str, headers: Mapping[str, str], most: int) -> WebSocket:
    """Ask over a new connection for the WebSocket at `url`. Raises NotUpgraded, LinkBroken."""
    parts = urlsplit(url)
    connection = WSConnection(ConnectionType.CLIENT)
    given = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    asked = Request(host=parts.netloc, target=parts.path or "/", extra_headers=given)
    try:
        await stream.send_all(connection.send(asked))
        while True:
            data = await stream.receive_some(_RECEIVE)
            if not data:
                raise LinkBroken("the other side closed the connection")
            connection.receive_data(bytes(data))
            for event in connection.events():
                match event:
                    case AcceptConnection():
                        return WebSocket(stream, connection, most)
                    case RejectConnection(status_code=status):
                        raise NotUpgraded(f"HTTP {status} instead of a WebSocket", status)
                    case RejectData():
                        pass
    except RemoteProtocolError as error:
        raise NotUpgraded(f"no WebSocket: {error}") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise LinkBroken(f"the connection broke: {error.__cause__ or error}") from error
