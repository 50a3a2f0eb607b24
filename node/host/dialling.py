"""A node that cannot be reached opens the connections over which it is asked: see
`actors/wire/link/dialled.py`.

`SPARE` connections wait at the orchestrator. Once something comes over one it is handed to this node's
server, as if it had been accepted there, and another is opened.
"""

from __future__ import annotations

import base64
import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import unquote, urlsplit

import h11
import trio

from actors.kernel.backoff import Backoff
from actors.ports.world import Random
from actors.wire.http.server import Dialled
from actors.wire.link.dialled import NODE_HEADER, PATH, REVERSED, watch_peer
from node.access.credentials import CHALLENGE, Answered, Credentials
from node.host.connecting import describe_error

log: Final = logging.getLogger("node.dialling")

SPARE: Final = 3
OPENING: Final = 15.0
"""Seconds for a connection to be there."""
_RECEIVE: Final = 64 * 1024
_HEAD: Final = 64 * 1024


class NotOpened(OSError):
    """There is no connection; the text says why."""


class Dialler:
    """`orchestrator` and `proxy` are URLs; `trust` says whose certificates are believed."""

    def __init__(
        self,
        orchestrator: str,
        node_id: str,
        credentials: Credentials,
        rng: Random,
        *,
        trust: ssl.SSLContext,
        proxy: str | None = None,
    ) -> None:
        self._where = urlsplit(orchestrator)
        self._node_id = node_id
        self._credentials = credentials
        self._rng = rng
        self._trust = trust
        self._proxy = None if proxy is None else urlsplit(proxy)
        self._one_at_a_time = trio.Lock()
        self._trouble: str | None = None

    async def run(self, give: trio.MemorySendChannel[Dialled]) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(SPARE):
                nursery.start_soon(self._keep_one, give)

    async def _keep_one(self, give: trio.MemorySendChannel[Dialled]) -> None:
        backoff = Backoff(self._rng, first=0.25, most=10.0)
        while True:
            try:
                # A challenge is answered once.
                async with self._one_at_a_time:
                    with trio.fail_after(OPENING):
                        dialled = await self._open()
            except trio.TooSlowError:
                self._tell(f"none within {OPENING:g} s")
                await trio.sleep(backoff.next())
                continue
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
                self._tell(describe_error(error, proxied=self._proxy is not None))
                await trio.sleep(backoff.next())
                continue
            self._tell(None)
            asked = bool(dialled.came) or await _until_asked(dialled.socket)
            if asked:
                backoff.reset()
            await give.send(dialled)
            if not asked:
                await trio.sleep(backoff.next())

    def _tell(self, trouble: str | None) -> None:
        """Once for each change, not for each try."""
        if trouble != self._trouble and trouble is not None:
            log.warning("no connection to %s, it is tried again: %s", self._where.netloc, trouble)
        elif trouble != self._trouble:
            log.info("%s is reached again", self._where.netloc)
        self._trouble = trouble

    async def _open(self) -> Dialled:
        """Raises OSError, trio.BrokenResourceError, h11.RemoteProtocolError."""
        opened: list[Dialled] = []

        async def say(authorization: str | None) -> Answered:
            for before in opened:
                before.socket.close()
            dialled = await self._connect()
            opened[:] = [dialled]
            headers = {NODE_HEADER: self._node_id, "Connection": "upgrade", "Upgrade": REVERSED}
            if authorization is not None:
                headers["Authorization"] = authorization
            path = self._where.path.rstrip("/") + PATH
            answer, came = await _ask(dialled.spoken, "GET", path, self._where.netloc, headers)
            opened[:] = [replace(dialled, came=came)]
            return answer

        try:
            answer = await self._credentials.ask(say, "GET", PATH)
        except BaseException:
            for dialled in opened:
                dialled.socket.close()
            raise
        if answer.status != 101:
            opened[0].socket.close()
            raise NotOpened(answer.why)
        return opened[0]

    async def _connect(self) -> Dialled:
        secure = self._where.scheme == "https"
        host, port = self._where.hostname or "", self._where.port or (443 if secure else 80)
        if self._proxy is None:
            tcp = await trio.open_tcp_stream(host, port)
        else:
            tcp = await trio.open_tcp_stream(self._proxy.hostname or "", self._proxy.port or 80)
        try:
            watch_peer(tcp.socket)
            if self._proxy is not None:
                named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                headers = proxy_headers(self._proxy.username, self._proxy.password)
                answer, _ = await _ask(tcp, "CONNECT", named, named, headers)
                if not 200 <= answer.status < 300:
                    raise NotOpened(f"the proxy says: {answer.why}")
            if not secure:
                return Dialled(tcp.socket, tcp)
            tls = trio.SSLStream(tcp, self._trust, server_hostname=host, https_compatible=True)
            await tls.do_handshake()
            return Dialled(tcp.socket, tls)
        except BaseException:
            tcp.socket.close()
            raise


def proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    said = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {said}"}


async def _until_asked(sock: trio.socket.SocketType) -> bool:
    """Wait until something comes; False if it is the end."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return bool(await sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            continue
        except OSError:
            return False


async def _ask(
    stream: trio.abc.Stream, method: str, target: str, host: str, headers: Mapping[str, str]
) -> tuple[Answered, bytes]:
    """What is answered, and what has come behind it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
    request = h11.Request(method=method, target=target, headers=[("Host", host), *headers.items()])
    data = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    await stream.send_all(data)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_RECEIVE)))
        elif isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            continue
        elif isinstance(event, h11.InformationalResponse | h11.Response):
            said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
            body = b""
            if event.status_code != 101 and method != "CONNECT":
                body = await _read_body(stream, connection)
            reason = body[:500].decode("utf-8", "replace") or bytes(event.reason).decode("latin-1")
            why = f"HTTP {event.status_code}: {reason}"
            answer = Answered(event.status_code, said.get(CHALLENGE.lower(), ""), why)
            return answer, connection.trailing_data[0]
        else:
            raise NotOpened("no answer by HTTP")


async def _read_body(stream: trio.abc.Stream, connection: h11.Connection) -> bytes:
    body = b""
    while len(body) < _HEAD:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_RECEIVE)))
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            break
    return body
