"""The node's truth on disk: one record beside each payload's directory, one tombstone for each key that was
cancelled or released, the node's name, and the counter of contract ids.

    DATA/node.json                    who this node is
    DATA/lock                         held while a node process uses the directory; says who this node is too,
                                      and how many attempts it ever took over and was told to forget
    DATA/reserve                      space for a full disk (see reserve.py)
    DATA/counter                      ids up to this number may have been used
    DATA/written                      keys of payloads that have ended and are written through, a line each
    DATA/boot                         how often the disk has failed to keep what was written, in this boot
    DATA/payloads/KEY/record.json     one payload
    DATA/payloads/KEY/ready           what becomes `running` with its name; does not count
    DATA/payloads/KEY/withdrawn       what becomes of `ready` at the next start; counts for nothing
    DATA/payloads/KEY/running         the same once somebody has set out to start it, with since when it runs
                                      if it does so for a while; counts while the record says Prepared, or
                                      nothing
    DATA/tombstones/KEY               "cancel AT" or "release AT"

What is damaged ends neither the start of a node nor any other payload. Of a payload whose record cannot be
read `running` tells; without that it has no owner, and is told to every orchestrator. A tombstone counts by
its name alone. A counter that is lost goes on well above every id that is still known.

All of this blocks: it is called in threads. Of a payload that is to be written `through`, and of the node
itself, every write is durable when its function returns: written beside, synced, renamed, and the directory
synced. Of all others nothing is: what had not ended when the machine went down is lost anyway, and of what
had ended only that counts in another boot which `written` names.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from actors.domain.batch_request import request_from_json, request_to_json
from actors.domain.ids import MAX_ID, is_key
from actors.domain.limits import limits_from_json, limits_to_json
from actors.domain.node import Tally
from actors.domain.payload import UNKNOWN, Payload
from actors.domain.status import ENDED, PAYLOAD, Status
from actors.process.procfs import boot_id
from actors.store.durable import (
    create_durably,
    create_plainly,
    is_full,
    is_passing,
    overwrite,
    replace_plainly,
    sync_directory,
    write_all,
    write_durably,
    write_plainly,
)
from actors.store.kept_file import Damaged, read_kept, read_object
from actors.store.repair import make_directory, retry_repaired, set_aside
from actors.store.reserve import Reserve
from actors.store.sync_disk import sync_file_system
from actors.wire.protocol.attempts import Garbled, end_from_json, end_to_json
from node.errors import NodeError
from node.runs.workspace import READY, RUNNING

log: Final = logging.getLogger("node.payloads")

_RESERVE: Final = 64
_LEAP: Final = 1 << 24
"""Ids that are left out when it is not known any more which were given out: it can be done 256 times."""

_RECORD: Final = 1 << 20
"""Bytes of a record at most. All else that is kept here has less, but for the list of what is written."""
_WRITTEN: Final = 1 << 20
"""Bytes of what has gone since, with which that list is made anew."""
_LINE: Final = 34

CANCEL: Final = "cancel"
RELEASE: Final = "release"


class DataDirectoryError(NodeError):
    """The data directory cannot be used; the message says why and what to do."""


class DiskFailed(NodeError):
    """The disk has failed to keep what was written to it. What is only in memory now must not be told."""


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


def known_of(
    key: str, record: StoredPayload | None, running: StoredPayload | None, boot: str
) -> StoredPayload:
    """A payload as its two files tell it, either None if it cannot be read. Of whom nothing tells any more is
    nobody's, and of this boot."""
    if record is not None and record.payload.status is not Status.PREPARED:
        return record
    if running is not None and running.payload.status is Status.RUNNING:
        return replace(running, running=True)
    if record is not None:
        return record
    return StoredPayload(Payload(key, 0, 0, 1, "", 0, UNKNOWN, Status.PREPARED, 0, 0.0), boot)


class Records:
    """The files of one data directory, which it holds locked until `close`."""

    def __init__(self, data: Path, *, boot: str | None = None, outlives: bool = False) -> None:
        """Make the directory if need be and lock it. `outlives`: what runs here does not end with the
        machine. Raises `DataDirectoryError`."""
        self.data = data
        self.payloads = data / "payloads"
        self.tombstones = data / "tombstones"
        self._payloads, self._tombstones = os.fspath(self.payloads), os.fspath(self.tombstones)
        """The same as text, which is joined at no cost."""
        self.reserve = Reserve(data / "reserve")
        self.outlives = outlives
        self.written: set[str] = set()
        """Payloads that have ended and are known to have been written through."""
        try:
            # Scripts with uids of their own get through to what is theirs; all else in it is closed to them.
            data.mkdir(mode=0o711, parents=True, exist_ok=True)
            for directory in (self.payloads, self.tombstones):
                if not directory.is_dir():
                    make_directory(directory)
            set_aside(data / "lock")
            self._lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Open from now on: it is by this that the kernel tells what it could not write since.
            self._disk = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as why:
            raise DataDirectoryError(f"data directory {data} cannot be used: {why.strerror or why}") from why
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise DataDirectoryError(
                f"data directory {data} is in use by another node process: give each node its own --data"
            ) from None
        try:
            self._machine_boot = _read_boot() if boot is None else boot
            self._failures = self._count_failures()
            self.boot = f"{self._machine_boot}.{self._failures}" if self._failures else self._machine_boot
            """Names the time over which this node remembers all that it was told; "" if it cannot be told
            from others."""
            self.through = outlives or not self._machine_boot
            """Whether all is to be written through: another boot is no loss, or could not be seen."""
            self.reserve.hold()
            known = self._known_id()
            self.is_new = known is None
            """Whether nothing tells any more who this node was."""
            self.node_id = secrets.token_hex(16) if known is None else known
            self._keep_id()
            if outlives:
                # What is in doubt there may run on over any boot: nobody is to give it up for that.
                self.boot = self.node_id
            self.tally = self._known_tally()
            """Of all lives of this node; without how long its machine is up."""
            self._next_id = self._reserved = 0
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the directory go. Idempotent."""
        if self._lock >= 0:
            os.close(self._disk)
            os.close(self._lock)
            self._lock = -1

    def directory(self, key: str) -> Path:
        return self.payloads / key

    def place(self, key: str) -> str:
        """The same as text."""
        return f"{self._payloads}/{key}"

    # ------------------------------------------------------------------ payloads

    def load(self) -> list[StoredPayload]:
        """Every payload there is, of damaged ones what is known, oldest first. To be called once, before any
        id is given out."""
        found = [self._load(entry.name) for entry in os.scandir(self.payloads) if is_key(entry.name)]
        found.sort(key=lambda stored: stored.payload.id)
        self._begin_written({stored.payload.key for stored in found})
        ids: set[int] = set()
        below = min([1, *(stored.payload.id for stored in found)])
        for at, stored in enumerate(found):
            if stored.payload.id in ids or stored.payload.id == 0:
                below -= 1
                found[at] = replace(stored, payload=replace(stored.payload, id=below))
            ids.add(found[at].payload.id)
        self._begin_ids(max([0, *ids]))
        return found

    def strangers(self) -> list[str]:
        """What is among the payloads and is none."""
        return sorted(entry.name for entry in os.scandir(self.payloads) if not is_key(entry.name))

    def write(self, payload: Payload) -> None:
        """Store a payload's record in its directory; if through, what was renamed into place there before is
        durable then too."""
        path = f"{self._payloads}/{payload.key}/record.json"
        content = json.dumps(_to_json(payload, self.boot)).encode()
        if not payload.through:
            # In its place: what is torn by the death of this process is told by `running` and the marks.
            try:
                overwrite(path, content, synced=False)
            except OSError:
                pass
            else:
                return
        try:
            write = write_durably if payload.through else replace_plainly
            retry_repaired(path, lambda: write(path, content))
        except OSError as error:
            if not is_full(error):
                raise
            # No new file, and an end must be recorded all the same. If torn, `running` and the marks tell.
            overwrite(path, content, synced=payload.through)

    def write_new(self, payload: Payload, directory: str) -> None:
        """Store the first record of a payload in a directory that nobody sees yet, and that holds none."""
        content = json.dumps(_to_json(payload, self.boot)).encode()
        if payload.through:
            create_durably(f"{directory}/record.json", content)
            sync_directory(directory)
        else:
            create_plainly(f"{directory}/record.json", content)

    def write_intent(self, payload: Payload) -> None:
        """Leave word that somebody has set out to start a payload. Raises `OSError`; nobody has then."""
        path = f"{self._payloads}/{payload.key}/{RUNNING}"
        content = self._word(payload)
        try:
            # Mostly not synced: it is read after the death of a process, and what had not ended when the
            # machine goes down is lost, whatever is known of it.
            (write_durably if self.through else write_plainly)(path, content)
        except OSError:
            # On a full disk it may be there all the same, empty.
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise

    def write_ready(self, payload: Payload, directory: str) -> None:
        """Store the same in a directory that nobody sees yet, for who will start it to give it its name.
        Raises `OSError`; it is not there then."""
        create_plainly(f"{directory}/{READY}", self._word(payload))

    def _word(self, payload: Payload) -> bytes:
        return json.dumps(_to_json(payload, self.boot) | {"status": Status.RUNNING}).encode()

    def write_running(self, payload: Payload) -> None:
        """Say where it was left that it was to be started that it runs, and since when."""
        content = json.dumps(_to_json(payload, self.boot)).encode()
        path = f"{self._payloads}/{payload.key}/{RUNNING}"
        # In its place: what is cut short first has to look for room again.
        with suppress(OSError):
            return overwrite(path, content, synced=False)
        try:
            retry_repaired(path, lambda: write_plainly(path, content))
        except OSError as error:
            # On a full disk that it may run is told all the same.
            if not is_full(error):
                raise

    def _load(self, key: str) -> StoredPayload:
        make_directory(self.directory(key))  # its script may have closed it, or put something in its place
        record = self._read(key, "record.json")
        waits = record is None or record.payload.status is Status.PREPARED
        return known_of(key, record, self._read(key, RUNNING) if waits else None, self.boot)

    def _read(self, key: str, name: str) -> StoredPayload | None:
        """None if there is none, or it is damaged."""
        path = self.directory(key) / name
        data = read_object(path, _RECORD)
        if isinstance(data, Damaged):
            log.warning("%s is damaged: %s", path, data.why)
        if not isinstance(data, dict):
            return None
        try:
            return _from_json(data, key)
        except (ValueError, Garbled, KeyError, TypeError) as why:
            log.warning("%s is damaged: %s", path, why)
            return None

    # ------------------------------------------------------------------ tombstones

    def bury(
        self, keys: Mapping[str, str], at: float, through: Collection[str], spent: Collection[str] = ()
    ) -> None:
        """Store a tombstone of the given kind for each key. Those of `through` are durable once their
        directory is synced, which is left to the caller. Those of `spent` have ended and will be discarded:
        theirs is made of a file that they need no more, which is less work than a new one."""
        for key, kind in keys.items():
            path, content = f"{self._tombstones}/{key}", f"{kind} {at:.3f}\n".encode()
            if key in spent and self._bury_in_place(key, (RUNNING,), content, through=False):
                continue
            try:
                # Nothing reads it before it was promised, so it may be seen half-written.
                (create_durably if key in through else create_plainly)(path, content)
            except FileExistsError:
                set_aside(path)
                if key in through:
                    write_durably(path, content, synced=False)
                else:
                    replace_plainly(path, content)
            except OSError as error:
                # On a disk that takes no more files: of what is needed least.
                names = _EXPENDABLE[kind]
                if not is_full(error) or not self._bury_in_place(key, names, content, through=key in through):
                    raise

    def _bury_in_place(self, key: str, names: Sequence[str], content: bytes, *, through: bool) -> bool:
        """Make the tombstone of a file of its payload. False if there is none."""
        for name in names:
            path = f"{self._payloads}/{key}/{name}"
            try:
                overwrite(path, content, synced=through)
                os.rename(path, f"{self._tombstones}/{key}")
            except OSError:
                continue
            return True
        return False

    def load_tombstones(self) -> list[Tombstone]:
        """Damaged ones too. One that does not say of which kind it is orders less."""
        found = []
        for entry in os.scandir(self.tombstones):
            if not is_key(entry.name):
                # Left of a write that did not come to its rename: it was never promised to anybody.
                with suppress(OSError):
                    _delete(entry)
                continue
            at = entry.stat(follow_symlinks=False).st_mtime
            match = _TOMBSTONE.fullmatch(_or_nothing(read_kept(self.tombstones / entry.name, _RECORD)))
            if match is None:
                log.warning("tombstone %s is damaged, and counts as the order to end it", entry.path)
                found.append(Tombstone(entry.name, CANCEL, at))
            else:
                found.append(Tombstone(entry.name, match[1].decode(), float(match[2])))
        return found

    def unbury(self, keys: Iterable[str]) -> None:
        """Take old tombstones away."""
        for key in keys:
            path = self.tombstones / key
            set_aside(path)  # what is not called by a key goes at the next start
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ what is written through

    def sync(self) -> None:
        """Write through all that was written so far. Raises `DiskFailed`: then nobody knows what was, and
        none of it counts for the next process."""
        try:
            sync_file_system(self._disk)
        except OSError as error:
            self._fail(error)

    def note_written(self, keys: Collection[str]) -> None:
        """Note payloads that had ended before the last `sync`. Raises `DiskFailed`, or `OSError` where there
        is no room: then none of it is noted."""
        if self._listed > _WRITTEN + 2 * _LINE * len(self.written):
            self._list_written(self.written)
        content = _lines(keys)
        try:
            fd = os.open(self.data / "written", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if is_passing(error):
                raise
            self._list_written({*self.written, *keys})  # it is gone, or something else has its name
        else:
            try:
                write_all(fd, content)
                try:
                    os.fsync(fd)
                except OSError as error:
                    self._fail(error)
            finally:
                os.close(fd)
            self._listed += len(content)
        self.written.update(keys)

    def _begin_written(self, there: Collection[str]) -> None:
        said = read_kept(self.data / "written", 64 * _WRITTEN)
        if isinstance(said, Damaged):
            log.warning("%s is damaged: %s", self.data / "written", said.why)
        listed = _or_nothing(said)
        self.written = {line.decode("ascii", "replace") for line in listed.splitlines()}.intersection(there)
        self._listed = len(listed)
        # There from now on, so that its name need not be synced with each that it notes.
        if not isinstance(said, bytes) or self._listed > 2 * _LINE * len(self.written):
            with suppress(OSError):
                self._list_written(self.written)

    def _list_written(self, keys: Collection[str]) -> None:
        path, content = self.data / "written", _lines(list(keys))
        retry_repaired(path, lambda: write_durably(path, content))
        self._listed = len(content)

    def _fail(self, error: OSError) -> NoReturn:
        """No later call would say what of it is lost. For the next process it counts as the machine's end."""
        path, content = self.data / "boot", f"{self._machine_boot} {self._failures + 1}\n".encode()
        # It matters in this boot alone, so it need not reach the disk.
        try:
            self.reserve.attempt(lambda: retry_repaired(path, lambda: write_plainly(path, content)))
        except OSError as why:
            log.error("%s cannot be written: %s", path, why)
        raise DiskFailed(
            f"the disk of {self.data} failed to keep what was written to it ({error.strerror or error}):"
            " the node ends; when it is started again, what had not been written through counts as lost"
        ) from error

    def _count_failures(self) -> int:
        said = _BOOT.fullmatch(_or_nothing(read_kept(self.data / "boot", _RECORD)))
        return int(said[2]) if said is not None and said[1].decode() == self._machine_boot else 0

    # ------------------------------------------------------------------ who, and the counter

    def new_id(self) -> int:
        """The next id of the contract: never one that was given out before, over restarts too. Raises
        `OutOfIds`."""
        if self._next_id > MAX_ID:
            raise OutOfIds("this node has given out all its ids; start it with a new data directory")
        if self._next_id > self._reserved:
            self._reserve_ids(min(MAX_ID, self._next_id + _RESERVE - 1))
        given = self._next_id
        self._next_id += 1
        return given

    def _reserve_ids(self, last: int) -> None:
        path = self.data / "counter"
        retry_repaired(path, lambda: write_durably(path, b"%d\n" % last))
        self._reserved = last

    def _begin_ids(self, known: int) -> None:
        """Go on where an earlier process ended; `known` is the largest id that still belongs to a payload."""
        path = self.data / "counter"
        said = read_kept(path, _RECORD)
        if (match := _COUNTER.fullmatch(_or_nothing(said))) is not None and int(match[1]) <= MAX_ID:
            self._reserved = max(int(match[1]), known)
        elif said is None and not self._was_here:
            self._reserved = known
            with suppress(OSError):  # it is there for a start before the first id is given
                write_durably(path, b"%d\n" % known)
        else:
            self._reserved = known + _LEAP
            log.warning("%s is damaged or gone: ids go on at %d", path, self._reserved + 1)
        self._next_id = self._reserved + 1

    def _known_id(self) -> str | None:
        """Who this node is, by either of the two files that say so."""
        path = self.data / "node.json"
        who = read_object(path, _RECORD)
        locked = os.pread(self._lock, 32, 0)
        self._was_here = who is not None or bool(locked)
        known = [who.get("node_id") if isinstance(who, dict) else None, locked.decode("ascii", "replace")]
        return next((one for one in known if is_key(one)), None)

    def _keep_id(self) -> None:
        path, content = self.data / "node.json", json.dumps({"node_id": self.node_id}).encode() + b"\n"
        if self.is_new and self._was_here:
            log.error("nothing in %s tells who this node was: it is a new one, and ends what runs", self.data)
        if read_kept(path, _RECORD) != content:
            self.reserve.attempt(lambda: retry_repaired(path, lambda: write_durably(path, content)))
        if os.pread(self._lock, 32, 0) != self.node_id.encode():
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, self.node_id.encode(), 0)
            os.fsync(self._lock)

    # ------------------------------------------------------------------ the tally

    def count(self, accepted: int, buried: int) -> None:
        """Attempts that were taken over and buried. In its place and unsynced: it is compared within one boot
        of the machine. Raises `OSError`."""
        tally = Tally(self.tally.accepted + accepted, self.tally.buried + buried, 0)
        os.pwrite(self._lock, b"\n%020d %020d\n" % (tally.accepted, tally.buried), 32)
        self.tally = tally

    def _known_tally(self) -> Tally:
        said = _TALLY.fullmatch(os.pread(self._lock, 64, 32))
        if said is not None:
            return Tally(int(said[1]), int(said[2]), 0)
        if self.is_new and not self._was_here:
            return Tally(0, 0, 0)
        # Nobody may take it for set back.
        now = time.time_ns() // 1000
        return Tally(now, now, 0)


_EXPENDABLE: Final = {
    CANCEL: (RUNNING, "intent"),
    # Of what is released nobody wants anything any more.
    RELEASE: (RUNNING, "intent", "manifest.json", "record.json"),
}
_COUNTER: Final = re.compile(rb"([0-9]{1,10})\n")
_BOOT: Final = re.compile(rb"([!-~]*) ([0-9]{1,9})\n")
_TALLY: Final = re.compile(rb"\n([0-9]{20}) ([0-9]{20})\n")
_TOMBSTONE: Final = re.compile(rb"(cancel|release) ([0-9]{1,11}\.[0-9]{3})\n")


def is_same_machine_life(one: str, other: str) -> bool:
    """Whether two boots of a node may be of one boot of its machine, in which its disk has failed."""
    machines = {boot.partition(".")[0] for boot in (one, other)}
    return len(machines) == 1 or "" in machines


def _read_boot() -> str:
    try:
        return boot_id()
    except OSError as error:
        log.warning("which boot of the machine this is cannot be read: all is written through (%s)", error)
        return ""


def _lines(keys: Collection[str]) -> bytes:
    """Each after a line's end, too: the line before it may have been cut short."""
    return b"".join(b"\n%s\n" % key.encode() for key in keys)


def _or_nothing(content: bytes | Damaged | None) -> bytes:
    return content if isinstance(content, bytes) else b""


def _delete(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)


def _to_json(payload: Payload, boot: str) -> dict[str, Any]:
    return {
        "key": payload.key,
        "id": payload.id,
        "job": payload.job_id,
        "n": payload.n,
        "service": payload.service,
        "user": payload.user_id,
        "owner": payload.owner,
        "status": payload.status,
        "created_at": payload.created_at,
        "max_runtime_seconds": payload.max_runtime,
        "limits": limits_to_json(payload.limits),
        "batch_request": request_to_json(payload.batch_request),
        "request_id": payload.request_id,
        "slot_wait_seconds": payload.slot_wait,
        "pid": payload.pid,
        "started_at": payload.started_at,
        "end": None if payload.end is None else end_to_json(payload.end),
        "lost": payload.lost,
        "through": payload.through,
        "boot": boot,
    }


def _from_json(data: Mapping[str, Any], key: str) -> StoredPayload:
    """Raises `ValueError`, `Garbled`, `KeyError` or `TypeError` for what was never written so: whatever comes
    from here fits the table, and can be told."""
    status = Status(data["status"])
    end = None if data["end"] is None else end_from_json(data["end"])
    if data["key"] != key or status not in PAYLOAD or (status in ENDED) != (end is not None):
        raise ValueError(f"record of {key} contradicts itself")
    if end is not None and (end.status is not status or end.size < 0):
        raise ValueError(f"record of {key} contradicts itself")
    payload = Payload(
        key=key,
        id=_whole(data["id"], -MAX_ID, MAX_ID),
        job_id=_whole(data["job"], 0),
        n=_whole(data["n"], 0),
        service=_text(data["service"]),
        user_id=_whole(data["user"], -(1 << 63)),
        owner=_text(data["owner"]),
        status=status,
        sequence=0,
        created_at=_seconds(data["created_at"]),
        max_runtime=_seconds(data["max_runtime_seconds"]),
        limits=limits_from_json(data.get("limits", {})),
        batch_request=request_from_json(data.get("batch_request", {})),
        request_id=_text(data.get("request_id", "")),
        slot_wait=None if (wait := data.get("slot_wait_seconds")) is None else _seconds(wait),
        pid=_whole(data["pid"], 0, 1 << 22),
        started_at=None if data["started_at"] is None else _seconds(data["started_at"]),
        end=end and replace(end, message=_text(end.message)),
        lost=data["lost"] is True,
        # Earlier versions wrote all of them through.
        through=data.get("through") is not False,
    )
    return StoredPayload(payload, _text(data["boot"]))


def _whole(value: Any, least: int, most: int = (1 << 63) - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"no number that is kept here: {value!r:.50}")
    return value


def _seconds(value: Any) -> float:
    """A time or a duration; not "nan"."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e11 <= value <= 1e300:
        raise ValueError(f"no time that is kept here: {value!r:.50}")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {value!r:.50}")
    value.encode()  # half a surrogate pair is no text of ours, and the table does not take it
    return value
