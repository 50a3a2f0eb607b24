"""An orchestrator that knows only the published contract, for one job on one node:
foreign_orchestrator_program.py NODE DIRECTORY RESULT.ZIP [--kill]

Sends all files of DIRECTORY, polls until the payload is over (with --kill: kills it once it runs), fetches
the zip, and prints what it saw as JSON. Nothing of the product is in it.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

KEYS = {"id": int, "input": dict, "status": str, "loc": str, "pid": int, "killed": bool}
OVER = ("Completed", "Failed", "Invalid", "Killed")
DEADLINE = 60.0

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str, bytes]:
    """Status, content type, body."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    try:
        with opener.open(request, timeout=DEADLINE) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers["Content-Type"], refused.read()


def payload_of(body: bytes) -> dict[str, Any]:
    """A Payload; all of its keys have to be there, and the numbers to fit 32 bits."""
    payload: dict[str, Any] = json.loads(body)
    for key, kind in KEYS.items():
        assert type(payload[key]) is kind, (key, payload)
    assert 0 <= payload["id"] < 2**32 and 0 <= payload["pid"] < 2**32, payload
    return payload


def form(directory: Path) -> bytes:
    body = b""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = path.relative_to(directory)
            head = (
                f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'
            )
            body += head.encode() + path.read_bytes() + b"\r\n"
    return body + b"--frontier--\r\n"


def main() -> None:
    node, directory, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kill = "--kill" in sys.argv
    status, _, body = ask(f"{node}/load")
    load = json.loads(body)
    assert status == 200 and 0 <= load <= 100, (status, body)
    status, _, body = ask(f"{node}/submit", form(directory), "multipart/form-data; boundary=frontier")
    assert status == 200, (status, body)
    submitted = payload_of(body)
    number = submitted["id"]
    seen = [submitted["status"]]
    killed = None
    deadline = time.monotonic() + DEADLINE
    while True:
        status, kind, body = ask(f"{node}/retrieve/{number}")
        assert status == 200, (status, body)
        now = "Completed" if kind == "application/zip" else payload_of(body)["status"]
        if now != seen[-1]:
            seen.append(now)
        if now in OVER:
            break
        if kill and now == "Running" and killed is None:
            killed = ask(f"{node}/kill/{number}", b"")[::2]
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)  # the contract offers no other way
    if kind != "application/zip":
        status, kind, body = ask(f"{node}/retrieve_partial/{number}")
        assert (status, kind) == (200, "application/zip"), (status, kind)
    result.write_bytes(body)
    said = {"submitted": submitted, "seen": seen, "killed": killed and [killed[0], killed[1].decode()]}
    said["unknown"] = [
        ask(f"{node}/{route}/{number + 1000}")[0] for route in ("retrieve", "retrieve_partial")
    ]
    said["unknown"].append(ask(f"{node}/kill/{number + 1000}", b"")[0])
    print(json.dumps(said))


if __name__ == "__main__":
    main()
