"""HTTP/1.1 with as little CPU as Python can: what is measured has to be the server and not its clients.

It speaks to any server of the contract, over one connection that is kept or over a new one each time.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

from testbed.portal import Refused

_TIMEOUT: Final = 120.0
_MOST: Final = 1 << 16


class Answer(NamedTuple):
    """`headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """Not to be shared by threads. With `keep` false each request has a connection of its own."""

    def __init__(self, url: str, *, keep: bool = True) -> None:
        split = urlsplit(url)
        if split.scheme != "http" or split.hostname is None:
            raise OSError(f"{url} is no address of plain HTTP such as http://127.0.0.1:5000")
        self._address = (split.hostname, split.port or 80)
        self._host = split.netloc
        self._keep = keep
        self._socket: socket.socket | None = None
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def get(self, path: str) -> Answer:
        return self.exchange(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())

    def post(self, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        return self.exchange(head.encode() + body)

    def upload(self, headers: Mapping[str, str], body: bytes) -> int:
        """Post a job; its id. Raises Refused, OSError."""
        answer = self.post("/upload", headers, body)
        if answer.status != 201:
            raise Refused("POST /upload", answer.status, answer.body)
        return int(answer.json()["id"])

    def exchange(self, request: bytes) -> Answer:
        """Send it once, and read what comes. Raises OSError."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, _TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._read = b""
        try:
            self._socket.sendall(request)
            answer = self._answer()
        except BaseException:
            self.close()
            raise
        if not self._keep or answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def _answer(self) -> Answer:
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        status = int(first.split(" ", 2)[1])
        if "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self._until(b"\r\n").partition(b";")[0], 16):
                body += self._exactly(size)
                self._until(b"\r\n")
            while self._until(b"\r\n"):  # a trailer
                pass
        else:
            raise OSError("an answer without Content-Length and not in chunks")
        return Answer(status, headers, body)

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        found, _, self._read = self._read.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            self._more()
        found, self._read = self._read[:size], self._read[size:]
        return found

    def _more(self) -> None:
        assert self._socket is not None
        piece = self._socket.recv(_MOST)
        if not piece:
            raise ConnectionResetError("the server closed the connection before its answer was complete")
        self._read += piece
