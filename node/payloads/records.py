"""The node's truth on disk: one record beside each payload's directory, one tombstone for each key that was
cancelled or released, the node's name, and the counter of contract ids.

    DATA/node.json                    who this node is
    DATA/lock                         held while a node process uses the directory
    DATA/reserve                      space for a full disk (see reserve.py)
    DATA/counter                      ids up to this number may have been used
    DATA/payloads/KEY/record.json     one payload
    DATA/payloads/KEY/running         which process runs it since when; counts while the record says Prepared
    DATA/tombstones/KEY               "cancel AT" or "release AT"

All of this blocks: it is called in threads. Every write is durable when its function returns, but where its
docstring says otherwise: written beside, synced, renamed, and the directory synced.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from actors.domain.ids import MAX_ID, is_key
from actors.domain.payload import Payload
from actors.domain.status import ENDED, PAYLOAD, Status
from actors.process.procfs import boot_id
from actors.store.durable import create_durably, sync_directory, write_durably
from actors.store.reserve import Reserve
from actors.wire.protocol.attempts import Garbled, end_from_json, end_to_json
from node.errors import NodeError
from node.runs.repair import retry_repaired

_RESERVE: Final = 64

CANCEL: Final = "cancel"
RELEASE: Final = "release"


class DataDirectoryError(NodeError):
    """The data directory cannot be used; the message says why and what to do."""


class OutOfIds(NodeError):
    """All 32-bit ids of the contract have been given out."""


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """A payload as its record tells it, and the boot of the machine that the record was written in. If
    `running` it was under way when the process before this one ended."""

    payload: Payload
    boot: str
    running: bool = False


@dataclass(frozen=True, slots=True)
class Tombstone:
    key: str
    kind: str
    at: float


class Records:
    """The files of one data directory, which it holds locked until `close`."""

    def __init__(self, data: Path, *, boot: str | None = None) -> None:
        """Make the directory if need be and lock it. Raises `DataDirectoryError`."""
        self.data = data
        self.payloads = data / "payloads"
        self.tombstones = data / "tombstones"
        self.reserve = Reserve(data / "reserve")
        self.boot = boot_id() if boot is None else boot
        try:
            for directory in (data, self.payloads, self.tombstones):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as why:
            raise DataDirectoryError(f"data directory {data} cannot be used: {why.strerror or why}") from why
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DataDirectoryError(
                f"data directory {data} is in use by another node process: give each node its own --data"
            ) from None
        try:
            self.node_id = self._who()
            self._next_id = self._counter()
            self._reserved = self._next_id - 1
            self.reserve.hold()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the directory go. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def directory(self, key: str) -> Path:
        return self.payloads / key

    # ------------------------------------------------------------------ payloads

    def load(self) -> list[StoredPayload]:
        """Every record there is. A directory without a readable one is no payload: it never became visible,
        or its record was damaged by hand; it is left alone and named by `unreadable`."""
        found = []
        for entry in os.scandir(self.payloads):
            if not is_key(entry.name):
                continue
            try:
                data = json.loads((self.payloads / entry.name / "record.json").read_bytes())
                found.append(self._with_running(_from_json(data, entry.name)))
            except (OSError, ValueError, Garbled, KeyError, TypeError):
                continue
        found.sort(key=lambda stored: stored.payload.id)
        return found

    def unreadable(self, known: Iterable[str]) -> list[str]:
        """Directories that are none of the known payloads."""
        names = set(known)
        return sorted(entry.name for entry in os.scandir(self.payloads) if entry.name not in names)

    def write(self, payload: Payload) -> None:
        """Store a payload's record in its directory. What was renamed into place there before is durable then
        too."""
        path = self.directory(payload.key) / "record.json"
        content = json.dumps(_to_json(payload, self.boot)).encode()
        retry_repaired(path, lambda: write_durably(path, content))

    def write_new(self, payload: Payload, directory: Path) -> None:
        """Store the first record of a payload in a directory that nobody sees yet, and that holds none."""
        content = json.dumps(_to_json(payload, self.boot)).encode()
        create_durably(directory / "record.json", content)
        sync_directory(directory)

    def write_running(self, payload: Payload) -> None:
        """Leave word that a payload runs. Not synced, as it is read only after the death of a process: what
        had not ended when the machine goes down is lost, whatever is known of it."""
        data = json.dumps({"pid": payload.pid, "started_at": payload.started_at}).encode()
        path = self.directory(payload.key) / "running"
        retry_repaired(path, lambda: path.write_bytes(data))

    def _with_running(self, stored: StoredPayload) -> StoredPayload:
        if stored.payload.status is not Status.PREPARED:
            return stored
        try:
            data = json.loads((self.directory(stored.payload.key) / "running").read_bytes())
            pid, started_at = int(data["pid"]), data["started_at"]
            payload = replace(stored.payload, pid=pid, started_at=started_at and float(started_at))
            return StoredPayload(payload, stored.boot, running=True)
        except (OSError, ValueError, KeyError, TypeError):
            return stored

    # ------------------------------------------------------------------ tombstones

    def bury(self, keys: Mapping[str, str], at: float) -> None:
        """Store a tombstone of the given kind for each key. They are durable once their directory is synced,
        which is left to the caller."""
        for key, kind in keys.items():
            path, content = self.tombstones / key, f"{kind} {at:.3f}\n".encode()
            try:
                # Nothing reads it before it was promised, so it may be seen half-written.
                create_durably(path, content)
            except FileExistsError:
                write_durably(path, content, synced=False)

    def load_tombstones(self) -> list[Tombstone]:
        found = []
        for entry in os.scandir(self.tombstones):
            if not is_key(entry.name):
                # Left of a write that did not come to its rename: it was never promised to anybody.
                with suppress(OSError):
                    os.unlink(entry.path)
                continue
            kind, _, at = (self.tombstones / entry.name).read_text("ascii", "replace").partition(" ")
            try:
                when = float(at)
            except ValueError:
                when = entry.stat().st_mtime
            found.append(Tombstone(entry.name, RELEASE if kind == RELEASE else CANCEL, when))
        return found

    def unbury(self, keys: Iterable[str]) -> None:
        """Take old tombstones away."""
        for key in keys:
            (self.tombstones / key).unlink(missing_ok=True)

    # ------------------------------------------------------------------ who, and the counter

    def new_id(self) -> int:
        """The next id of the contract: never one that was given out before, over restarts too. Raises
        `OutOfIds`."""
        if self._next_id > MAX_ID:
            raise OutOfIds("this node has given out all its ids; start it with a new data directory")
        if self._next_id > self._reserved:
            reserved = min(MAX_ID, self._next_id + _RESERVE - 1)
            write_durably(self.data / "counter", f"{reserved}\n".encode())
            self._reserved = reserved
        given = self._next_id
        self._next_id += 1
        return given

    def _counter(self) -> int:
        try:
            return int((self.data / "counter").read_text("ascii")) + 1
        except FileNotFoundError:
            return 1
        except ValueError:
            raise DataDirectoryError(
                f"{self.data / 'counter'} is damaged: write a number into it that is above every id given out"
            ) from None

    def _who(self) -> str:
        path = self.data / "node.json"
        try:
            who = json.loads(path.read_bytes())["node_id"]
        except FileNotFoundError:
            who = secrets.token_hex(16)
            write_durably(path, json.dumps({"node_id": who}).encode() + b"\n")
        except (ValueError, KeyError, TypeError):
            who = None
        if not is_key(who):
            raise DataDirectoryError(
                f"{path} is damaged: it must hold the node's id (node_id, 32 hex digits)"
            )
        return who


def _to_json(payload: Payload, boot: str) -> dict[str, Any]:
    return {
        "key": payload.key,
        "id": payload.id,
        "job": payload.job_id,
        "n": payload.n,
        "service": payload.service,
        "user": payload.user_id,
        "owner": payload.owner,
        "status": payload.status.value,
        "created_at": payload.created_at,
        "max_runtime_seconds": payload.max_runtime,
        "pid": payload.pid,
        "started_at": payload.started_at,
        "end": None if payload.end is None else end_to_json(payload.end),
        "lost": payload.lost,
        "boot": boot,
    }


def _from_json(data: dict[str, Any], key: str) -> StoredPayload:
    status = Status(data["status"])
    end = None if data["end"] is None else end_from_json(data["end"])
    if data["key"] != key or status not in PAYLOAD or (status in ENDED) != (end is not None):
        raise ValueError(f"record of {key} contradicts itself")
    payload = Payload(
        key=key,
        id=int(data["id"]),
        job_id=int(data["job"]),
        n=int(data["n"]),
        service=str(data["service"]),
        user_id=int(data["user"]),
        owner=str(data["owner"]),
        status=status,
        sequence=0,
        created_at=float(data["created_at"]),
        max_runtime=float(data["max_runtime_seconds"]),
        pid=int(data["pid"]),
        started_at=None if data["started_at"] is None else float(data["started_at"]),
        end=end,
        lost=data["lost"] is True,
    )
    return StoredPayload(payload, str(data["boot"]))
