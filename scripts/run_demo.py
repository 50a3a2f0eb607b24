"""What scripts/demo does once the project is installed: an orchestrator, two nodes, a job, seen from outside.

Only the standard library: this is also what a portal's side looks like without any client library.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

EXAMPLE = Path(__file__).parents[1] / "examples" / "interface-contacts"
INPUTS = ("run.sh", "contacts.py", "helix_A.pdb", "helix_B.pdb")
LISTENING = "listening on "
ENDED = {"Completed", "Failed", "Invalid", "Killed", "Cleaned"}

START_SECONDS = 60.0
"""How long `orchestrator up` may take until it listens; it is a second where nothing else runs."""
STOP_SECONDS = 30.0
"""How long it may take to end after SIGTERM, its grace for running jobs included, before it is killed."""
JOB_SECONDS = 120.0
"""How long the job may take; it is a fraction of a second."""


CREDENTIALS: dict[str, str] = {}
"""The header by which the server knows us."""


class DemoFailed(Exception):
    """The demonstration cannot go on; the message is one line and says what to do where one can."""


def main() -> int:
    arguments = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    directory = Path(tempfile.mkdtemp(prefix="orchestrator-demo-"))
    try:
        refuse_taken_port(arguments.port)
        with running_orchestrator(directory, arguments.port) as (address, process):
            print(f"two nodes with two slots each; look at {address}/dashboard", flush=True)
            show_a_job(address, directory)
            if arguments.keep:
                print(f"left running at {address}; Ctrl-C ends it", flush=True)
                keep(process)
    except DemoFailed as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory)
    print("ended; nothing is left behind")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", usage="scripts/demo [--keep] [--port N]")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--port", type=_port, default=0, metavar="N")
    return parser.parse_args()


def refuse_taken_port(port: int) -> None:
    """Said here in one line, before anything is started. Raises DemoFailed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoFailed(f"port {port}: {os.strerror(error.errno or 0)}; type: scripts/demo") from error


@contextmanager
def running_orchestrator(directory: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`orchestrator up` from when it listens, with its address, until it has ended. Raises DemoFailed."""
    log = directory / "orchestrator.log"
    command = [str(Path(sys.executable).with_name("orchestrator")), "up", "--nodes", "2", "--slots", "2"]
    command += ["--port", str(port), "--data", str(directory / "data")]
    with log.open("w") as errors:
        # A session of its own: Ctrl-C comes to us alone, and we end it in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        address = wait_until_listening(process, log)
        # Scripts of jobs run as we do, so the server asks for a token; it wrote one down for us.
        name, _, value = (directory / "data/server/data/operator.token").read_text().strip().partition(": ")
        CREDENTIALS[name] = value
        yield address, process
    finally:
        stop(process)


def wait_until_listening(process: subprocess.Popen[str], log: Path) -> str:
    """The address it says it listens on. Its output is read to the end, so that it never fills the pipe."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.strip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    said = ""
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DemoFailed(f"orchestrator up does not listen after {START_SECONDS:.0f} s") from None
        if line is None:
            errors = [entry for entry in log.read_text(errors="replace").splitlines() if entry.strip()]
            reason = errors[-1] if errors else said
            raise DemoFailed(f"orchestrator up ended with status {process.wait()}: {reason}")
        if LISTENING in line:
            return line.split(LISTENING, 1)[1].split()[0].rstrip("/")
        said = line


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM, which takes nodes and jobs along; SIGKILL to its group if it does not follow."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave it half stopped
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def show_a_job(address: str, directory: Path) -> None:
    """Upload the example, follow its status, fetch and unzip its result, show it. Raises DemoFailed."""
    began = time.perf_counter()
    job = upload(address)
    number = job["id"]
    print(f"job {number}: {', '.join(INPUTS)}", flush=True)
    for status, message in changes(address, number):
        print(f"  {time.perf_counter() - began:6.2f} s  {status}", flush=True)
        if status in ENDED and status != "Completed":
            raise DemoFailed(f"job {number} is {status}: {message}")
    result = directory / "result"
    with zipfile.ZipFile(io.BytesIO(request(f"{address}/download/{number}"))) as archive:
        archive.extractall(result)
    took = time.perf_counter() - began
    print("\ncontacts.tsv")
    for line in (result / "contacts.tsv").read_text(encoding="utf-8").splitlines()[:6]:
        print(f"  {line.expandtabs(13)}")
    print("\nstdout.log")
    for line in (result / "stdout.log").read_text(encoding="utf-8").splitlines():
        print(f"  {line}")
    print(f"\nupload to unzipped result: {took:.2f} s", flush=True)


def upload(address: str) -> dict[str, Any]:
    """POST /upload as a browser's form would; the answer's StatusBody."""
    boundary = f"form-{os.urandom(12).hex()}"
    parts = [(f'name="{name}"', value) for name, value in (("user_id", b"1"), ("service", b"example"))]
    parts += [(f'name="file"; filename="{name}"', (EXAMPLE / name).read_bytes()) for name in INPUTS]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    body += f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer: dict[str, Any] = json.loads(request(f"{address}/upload", body, headers))
    return answer


def changes(address: str, number: int) -> Iterator[tuple[str, str]]:
    """Each status it is seen in, with its message, until it has ended; the server answers on a change."""
    deadline = time.monotonic() + JOB_SECONDS
    query = ""
    seen = None
    while time.monotonic() < deadline:
        job = json.loads(request(f"{address}/v1/jobs/{number}{query}"))
        if job["status"] != seen:
            seen = job["status"]
            yield seen, job.get("message") or ""
        if seen in ENDED:
            return
        query = f"?wait=20&after={job['version']}"
    raise DemoFailed(f"job {number} has not ended after {JOB_SECONDS:.0f} s")


def request(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """One exchange, never through a proxy: it is our own machine. Raises DemoFailed."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(
            urllib.request.Request(url, body, CREDENTIALS | (headers or {})), timeout=60
        ) as answer:
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        said = " ".join(error.read().decode(errors="replace").split())
        raise DemoFailed(f"{url} answered {error.code}: {said[:300]}") from error
    except OSError as error:
        raise DemoFailed(f"{url}: {error}") from error
    return content


def keep(process: subprocess.Popen[str]) -> None:
    """Until Ctrl-C. Raises DemoFailed when the orchestrator ends by itself."""
    try:
        status = process.wait()
    except KeyboardInterrupt:
        return
    raise DemoFailed(f"orchestrator up ended with status {status}")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: expected 0 to 65535")
    return int(text)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
