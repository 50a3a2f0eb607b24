"""A reverse proxy on loopback, for tests without an event loop: it serves a server below a path, at an
address that stays the same while servers come and go behind it. One connection a request; what comes back is
passed on as it comes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_PIECE: Final = 1 << 16
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_NO_SERVER: Final = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class PrefixProxy:
    """`target` is the server's URL; None: there is none. `says`: lines of headers that each request gets.
    `outside` counts requests for other paths."""

    def __init__(self, prefix: str, target: str | None, says: Sequence[bytes] = ()) -> None:
        self.says = says
        self.prefix = prefix
        self.target = target
        self.outside: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def url(self) -> str:
        return self.origin + self.prefix

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(near,))
            self._threads.append(thread)
            with self._lock:
                self._open.add(near)
            thread.start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            head, body = _head(near)
            if head:
                self._pass_on(near, head, body)
        with self._lock:
            self._open.discard(near)

    def _pass_on(self, near: socket.socket, head: bytes, body: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, path, version = line.decode().split(" ")
        if not path.startswith(f"{self.prefix}/"):
            self.outside.append(path)
            near.sendall(_NOT_FOUND)
            return
        target = self.target
        if target is None:
            near.sendall(_NO_SERVER)
            return
        kept = [one for one in rest.split(b"\r\n") if not one.lower().startswith(b"connection:")]
        first = f"{method} {path.removeprefix(self.prefix)} {version}".encode()
        host, _, port = target.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as far:
            with self._lock:
                self._open.add(far)
            try:
                far.sendall(b"\r\n".join([first, b"Connection: close", *self.says, *kept]) + body)
                _carry(far, near)
            finally:
                with self._lock:
                    self._open.discard(far)


def _head(near: socket.socket) -> tuple[bytes, bytes]:
    """The head, its empty line included, and the whole body."""
    said = b""
    while b"\r\n\r\n" not in said:
        piece = near.recv(_PIECE)
        if not piece:
            return b"", b""
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += near.recv(_PIECE)
    return head + b"\r\n\r\n", body


def _carry(far: socket.socket, near: socket.socket) -> None:
    """What the server sends, until it ends or the client is gone."""
    gone = threading.Thread(target=_until_gone, args=(near, far))
    gone.start()
    try:
        while piece := far.recv(_PIECE):
            near.sendall(piece)
    finally:
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
        gone.join()


def _until_gone(near: socket.socket, far: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while near.recv(_PIECE):
            pass
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)


@contextmanager
def prefix_proxy(prefix: str, target: str | None, says: Sequence[bytes] = ()) -> Iterator[PrefixProxy]:
    proxy = PrefixProxy(prefix, target, says)
    try:
        yield proxy
    finally:
        proxy.close()
