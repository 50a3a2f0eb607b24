"""A portal's side of the orchestrator with nothing but the standard library: upload, wait, download.

Synchronous on purpose: a connection a thread is the cheapest there is in Python, so that what is measured is
the system and not its client.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from testbed.cluster import SERVICE

ENDED: Final = frozenset({"Completed", "Failed", "Invalid", "Killed", "Cleaned"})
BLOCK: Final = 1 << 20
WAIT_SECONDS: Final = 30
TIMEOUT: Final = 120.0
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *(\d+)\r\n", re.IGNORECASE)


class Refused(Exception):
    """The server answered something else than expected. `status` is its HTTP status."""

    def __init__(self, what: str, status: int, body: bytes) -> None:
        super().__init__(f"{what} was answered {status}: {body[:300].decode(errors='replace')}")
        self.status = status


class Late(Exception):
    """A job has not ended in time; the text says how it is."""


class Portal:
    """One connection, kept open; not to be shared by threads."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        self._http = http.client.HTTPConnection(split.hostname, split.port, TIMEOUT, blocksize=BLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, files: Mapping[str, bytes], user: int, service: str = SERVICE) -> int:
        """Post a job; its id. Raises Refused, OSError."""
        headers, body = multipart(files, user, service)
        return _created(*self._exchange("POST", "/upload", headers, body))

    def upload_file(self, script: bytes, path: Path, user: int, service: str = SERVICE) -> int:
        """Post a job whose second file, `path`, is streamed from disk; its id. Raises Refused, OSError."""
        boundary, opening, closing = _form(user, service)
        opening += _part(boundary, "run.sh") + script + b"\r\n" + _part(boundary, path.name)
        closing = b"\r\n" + closing
        self._http.putrequest("POST", "/upload")
        length = len(opening) + path.stat().st_size + len(closing)
        for name, value in {**_headers(boundary), "Content-Length": str(length)}.items():
            self._http.putheader(name, value)
        self._http.endheaders(opening)
        with path.open("rb") as file:
            self._http.send(file)
        self._http.send(closing)
        answer = self._http.getresponse()
        return _created(answer.status, answer.read())

    def job(self, number: int, query: str = "") -> dict[str, Any]:
        job: dict[str, Any] = json.loads(self.get(f"/v1/jobs/{number}{query}"))
        return job

    def wait_ended(self, number: int, deadline: float = math.inf) -> dict[str, Any]:
        """The job once it has ended. The server answers when it does, or after a while with how it is. Raises
        Late when it has not ended at `deadline`, a time of the monotonic clock."""
        while True:
            patience = max(0, math.ceil(min(WAIT_SECONDS, deadline - time.monotonic())))
            job = self.job(number, f"?wait={patience}&until=ended")
            if job["status"] in ENDED:
                return job
            if time.monotonic() >= deadline:
                raise Late(f"job {number} has not ended: {job['status']}, {job.get('message')}")

    def wait_status(self, number: int, status: str) -> dict[str, Any]:
        """The job once it has this status, or has ended."""
        query = ""
        while True:
            job = self.job(number, query)
            if job["status"] == status or job["status"] in ENDED:
                return job
            query = f"?wait={WAIT_SECONDS}&after={job['version']}"

    def results(self, number: int, *, completed: bool) -> bytes:
        """The zip, by the contract's route for a completed job, else by ours."""
        return self.get(f"/download/{number}" if completed else f"/v1/jobs/{number}/results")

    def download_to(self, number: int, path: Path) -> None:
        """Stream a completed job's zip to a file. Raises Refused."""
        self._http.request("GET", f"/download/{number}")
        answer = self._http.getresponse()
        if answer.status != 200 or answer.getheader("Content-Type") != "application/zip":
            raise Refused(f"GET /download/{number}", answer.status, answer.read())
        with path.open("wb") as file:
            shutil.copyfileobj(answer, file, BLOCK)

    def get(self, path: str) -> bytes:
        """Raises Refused for anything but 200."""
        status, body = self._exchange("GET", path, {}, b"")
        if status != 200:
            raise Refused(f"GET {path}", status, body)
        return body

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._http.request(method, path, body or None, dict(headers))
        answer = self._http.getresponse()
        return answer.status, answer.read()


class PlainPortal(Portal):
    """The same with a plain socket, for answers that say how long they are and connections that stay: the
    library reads each head as if it were a mail, which on a core that has just been idle is half a
    millisecond, and no part of the system."""

    def __enter__(self) -> Self:
        self._http.connect()
        self._socket: socket.socket = self._http.sock
        return self

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._http.host}:{self._http.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        came = b""
        while (end := came.find(b"\r\n\r\n")) < 0:
            came += self._receive()
        length = _LENGTH.search(came, 0, end + 2)
        if length is None:
            raise OSError(f"an answer without its length: {came[:end]!r}")
        while len(came) < end + 4 + int(length[1]):
            came += self._receive()
        return int(came[9:12]), came[end + 4 :]

    def _receive(self) -> bytes:
        came = self._socket.recv(BLOCK)
        if not came:
            raise ConnectionError("the server has closed the connection")
        return came


def _created(status: int, body: bytes) -> int:
    if status != 201:
        raise Refused("POST /upload", status, body)
    return int(json.loads(body)["id"])


def multipart(files: Mapping[str, bytes], user: int, service: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of an upload."""
    boundary, opening, closing = _form(user, service)
    parts = b"".join(_part(boundary, name) + content + b"\r\n" for name, content in files.items())
    return _headers(boundary), opening + parts + closing


def _form(user: int, service: str) -> tuple[str, bytes, bytes]:
    boundary = f"form-{secrets.token_hex(12)}"
    fields = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("user_id", user), ("service", service))
    )
    return boundary, fields.encode(), f"--{boundary}--\r\n".encode()


def _part(boundary: str, name: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()


def _headers(boundary: str) -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}
