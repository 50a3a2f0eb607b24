"""What hostile jobs are after, made for them, and the looks from outside that tell what they have reached."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from testbed.cluster import Cluster

MEMORY: Final = 192 << 20
DISK: Final = 64 << 20
PROCESSES: Final = 100
CPU_SECONDS: Final = 4
FILES: Final = 3000
LOOKS_EVERY: Final = 0.1

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_VICTIM: Final = """
import signal, sys
def note(number, frame):
    with open(sys.argv[2], "a") as file:
        file.write("signalled")
signal.signal(signal.SIGUSR1, note)
print(flush=True)
while True:
    signal.pause()
"""


@dataclass(slots=True)
class World:
    """Baits, bystanders and listeners. `seen` are attacks that were seen to reach something."""

    directory: Path
    word: str
    targets: dict[str, Any]
    victim: psutil.Process
    terminal: int
    seen: set[str] = field(default_factory=set)

    @property
    def bait(self) -> Path:
        return Path(self.targets["bait"])

    def look(self) -> set[str]:
        """What is there from outside that no job should have made, when all of them have ended."""
        found = set(self.seen)
        file = Path(self.targets["victim_file"])
        told = file.stat()
        checks = {
            "mode": stat.S_IMODE(told.st_mode) != 0o640,
            "owner": told.st_uid != os.geteuid(),
            "times": told.st_mtime < 10,
            "attribute": bool(os.listxattr(file)),
            "rename": not Path(self.targets["rename_file"]).exists(),
            "truncate": not Path(self.targets["open_file"]).stat().st_size,
            "write-tmp": Path(self.targets["tmp_file"]).exists(),
            "write-data": Path(self.targets["data_file"]).exists(),
            "signal-other": (self.directory / "signalled").exists(),
            "priority": self.victim.nice() != psutil.Process().nice(),
            "shm-left": Path(f"/dev/shm/{self.targets['shm_word']}").exists(),
            "segment-left": _segment(self.targets["segment"]) is not None,
            "daemon": bool(_with_word(self.targets["daemon_word"])),
            "terminal": _has_input(self.terminal),
        }
        if not self.victim.is_running():
            found.add("kill-all")
        return found | {name for name, is_so in checks.items() if is_so}

    def clean(self) -> None:
        """Take away what was left outside the directory."""
        for path in (self.targets["tmp_file"], f"/dev/shm/{self.targets['shm_word']}"):
            Path(path).unlink(missing_ok=True)
        if (number := _segment(self.targets["segment"])) is not None:
            _LIBC.shmctl(number, 0, None)
        for process in _with_word(self.targets["daemon_word"]):
            with suppress(psutil.Error):
                process.kill()


@contextmanager
def made_world(directory: Path, secret: str) -> Iterator[World]:
    """Before the cluster: `secret` is in the environment of a bystander. What the cluster has is added by
    `add_cluster`."""
    word = f"hostile-{secrets.token_hex(6)}"
    home = directory / "somebody"
    home.mkdir()
    private, readable = home / "private.txt", home / "readable.txt"
    for path, mode in (
        (private, 0o600),
        (readable, 0o644),
        (home / "file", 0o640),
        (home / "name", 0o600),
        (home / "open", 0o666),
    ):
        path.write_text(f"{path.name} {secrets.token_hex(16)}\n")
        path.chmod(mode)
    (home / "bait").write_bytes(private.read_bytes())
    with ExitStack() as stack:
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, f"{word}-victim", str(directory / "signalled")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={"HOSTILE_SECRET": secret},
            start_new_session=True,
        )
        stack.callback(_end, victim)
        assert victim.stdout is not None
        victim.stdout.readline()
        master, slave = os.openpty()
        stack.callback(os.close, master)
        stack.callback(os.close, slave)
        os.set_blocking(master, False)
        targets: dict[str, Any] = {
            "bait": str(home / "bait"),
            "open_bait": str(readable),
            "victim": victim.pid,
            "victim_word": f"{word}-victim",
            "victim_file": str(home / "file"),
            "rename_file": str(home / "name"),
            "open_file": str(home / "open"),
            "daemon_word": f"{word}-daemon",
            "shm_word": f"{word}-shm",
            "segment": secrets.randbelow(1 << 30) + 1,
            "tmp_file": f"/tmp/{word}-tmp",
            "terminal": os.ttyname(slave),
            "processes": PROCESSES,
            "memory": MEMORY,
            "disk": DISK,
            "cpu_seconds": CPU_SECONDS,
            "files": FILES,
        }
        world = World(directory, word, targets, psutil.Process(victim.pid), master)
        stack.callback(world.clean)
        _listen(world, stack)
        yield world


def add_cluster(world: World, cluster: Cluster, bystander: Path) -> None:
    """`bystander` is the directory of a job that runs, at its node."""
    node = cluster.nodes[0]
    data = cluster.directory / node.name
    server_data = cluster.db_path.parent / "data"
    world.targets |= {
        "node": node.pid,
        "server": cluster.server.pid,
        "node_port": _port(node.url),
        "server_port": _port(cluster.url),
        "ledger": str(cluster.db_path),
        "operator_token": str(server_data / "operator.token"),
        "node_secret": str(next((data / "orchestrators").iterdir())),
        "result": str(next(server_data.rglob("result.zip"))),
        "bystander": str(bystander),
        "data_file": str(data / f"{world.word}-data"),
    }


@contextmanager
def watched(world: World, payloads: Path) -> Iterator[None]:
    """While this is open, what can only be seen while a job runs is looked for."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOKS_EVERY):
            _knock(world)
            if any(payloads.glob("*/forged")):
                world.seen.add("own-record")
            for path in payloads.glob("*/work/shell"):
                with suppress(OSError):
                    found = path.lstat()
                    if found.st_mode & stat.S_ISUID and found.st_uid == os.geteuid():
                        world.seen.add("setuid-left")

    thread = threading.Thread(target=watch, name="looks from outside", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _knock(world: World) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", world.targets["free_port"]), 1) as made:
        if made.recv(16) == b"hostile":
            world.seen.add("listen")


def _listen(world: World, stack: ExitStack) -> None:
    """All that is reached says so by the attack's name."""

    over = threading.Event()

    def take(name: str, made: socket.socket) -> None:
        made.settimeout(LOOKS_EVERY)
        with made:
            while not over.is_set():
                try:
                    if made.type is socket.SOCK_DGRAM:
                        made.recv(100)
                    else:
                        made.accept()[0].close()
                except TimeoutError:
                    continue
                world.seen.add(name)

    def serve(name: str, made: socket.socket) -> None:
        thread = threading.Thread(target=take, args=(name, made), name=f"listens for {name}", daemon=True)
        thread.start()
        stack.callback(thread.join)

    metadata = socket.create_server(("127.169.254.169", 0))
    host, port = metadata.getsockname()
    serve("metadata", metadata)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    serve("udp", datagrams)
    docker = socket.socket(socket.AF_UNIX)
    docker.bind(path := str(world.directory / "docker.sock"))
    docker.listen()
    serve("docker", docker)
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(log_path := str(world.directory / "log.sock"))
    os.chmod(log_path, 0o666)
    serve("datagram", log)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{world.word}")
    abstract.listen()
    serve("abstract", abstract)
    with socket.create_server(("127.0.0.1", 0)) as free:
        free_port = free.getsockname()[1]
    world.targets |= {
        "metadata_host": host,
        "metadata_port": port,
        "udp_port": datagrams.getsockname()[1],
        "docker_socket": path,
        "log_socket": log_path,
        "abstract_socket": world.word,
        "free_port": free_port,
    }
    stack.callback(over.set)


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _with_word(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _segment(key: int) -> int | None:
    """The number of the shared memory that has this key."""
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[0]) == key:
            return int(fields[1])
    return None


def _has_input(terminal: int) -> bool:
    try:
        return b"hostile" in os.read(terminal, 4096)
    except BlockingIOError:
        return False
