"""A node that knows only the published contract: foreign_node_program.py PORT DIRECTORY

Nothing of the product is in it. As such nodes do, it keeps its payloads in memory (ids begin at 1 whenever it
starts), flattens names, answers a submit with every input byte as a JSON number, and believes that a script
has ended well when `.orchestrator.exit` holds 0.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

EXIT_FILE = ".orchestrator.exit"


@dataclass
class Payload:
    id: int
    directory: Path
    input: dict[str, bytes]
    status: str = "Prepared"
    killed: bool = False
    process: subprocess.Popen[bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        with self.lock:
            if self.killed:
                return
            if "run.sh" not in self.input:
                self.status = "Invalid"
                return
            self.process = subprocess.Popen(
                ["bash", str(self.directory / "run.sh")],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.status = "Running"
        self.process.wait()
        with self.lock:
            if not self.killed:
                self.status = "Completed" if self._exit_code() == "0" else "Failed"

    def kill(self) -> None:
        with self.lock:
            if self.status in ("Prepared", "Running"):
                self.killed = True
                self.status = "Killed"
                self.end_group()

    def end_group(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def zipped(self) -> bytes:
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self.directory.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(self.directory))
        return whole.getvalue()

    def told(self, *, with_input: bool = False) -> dict[str, Any]:
        return {
            "id": self.id,
            "input": {name: list(data) for name, data in self.input.items()} if with_input else {},
            "status": self.status,
            "loc": str(self.directory),
            "pid": self.process.pid if self.process is not None else 0,
            "killed": self.killed,
        }

    def _exit_code(self) -> str:
        try:
            return (self.directory / EXIT_FILE).read_text().strip()
        except FileNotFoundError:
            return ""


class Payloads:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[int, Payload] = {}
        self._lock = threading.Lock()

    def add(self, files: dict[str, bytes]) -> Payload:
        with self._lock:
            number = len(self._known) + 1
            # Beside what an earlier life has left under this number.
            directory = self._directory / f"{number}-{os.getpid()}"
            directory.mkdir(parents=True)
            for name, data in files.items():
                (directory / name).write_bytes(data)
            self._known[number] = payload = Payload(number, directory, files)
        threading.Thread(target=payload.run, daemon=True).start()
        return payload

    def get(self, number: int) -> Payload | None:
        return self._known.get(number)

    def end(self) -> None:
        for payload in self._known.values():
            payload.kill()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    payloads: Payloads

    def do_GET(self) -> None:
        if self.path == "/":
            return self._json(200, {"message": "pong"})
        if self.path == "/health":
            return self._json(200, {"status": "ok", "database": "ok"})
        if self.path == "/load":
            return self._json(200, 12.5)
        route, payload = self._payload()
        if payload is None or route not in ("retrieve", "retrieve_partial"):
            return self._json(404, {"id": 0, "status": "Unknown", "message": "not found"})
        if route == "retrieve" and payload.status != "Completed":
            return self._json(200, payload.told())
        return self._send(200, "application/zip", payload.zipped())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/submit":
            files = _parts(self.headers["Content-Type"], body)
            return self._json(200, self.payloads.add(files).told(with_input=True))
        route, payload = self._payload()
        if payload is None or route != "kill":
            return self._json(404, {"id": 0, "status": "Unknown", "message": "not found"})
        payload.kill()
        return self._send(200, "application/json", b"")

    def _payload(self) -> tuple[str, Payload | None]:
        match = re.fullmatch(r"/(\w+)/([0-9]+)", self.path)
        return (match[1], self.payloads.get(int(match[2]))) if match else ("", None)

    def _json(self, status: int, body: Any) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """The files of a form, by the last segment of their names."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    assert boundary is not None
    files = {}
    for piece in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head.lstrip() + b"\r\n\r\n")
        name = message.get_filename()
        if name:
            files[name.rsplit("/", 1)[-1]] = data
    return files


def main() -> None:
    Handler.payloads = Payloads(Path(sys.argv[2]))
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
    Handler.payloads.end()


if __name__ == "__main__":
    main()
