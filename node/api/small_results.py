"""What payloads have left that have just ended, where it is little: whoever looks through it reads it at
once, and it waits in memory to be told by a link. What does not is read when it is to be told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from actors.domain.payload import Payload
from actors.process.kept_threads import KeptThreads
from actors.wire.errors import WireError
from actors.wire.protocol.attempts import view_to_json
from node.api.packing import CRC32, CollectForm, collect_one, encode_end, pack_files
from node.payloads.table import PayloadTable, view_of
from node.runs.manifest import FrozenManifest, Logs
from node.runs.workspace import Workspace

log: Final = logging.getLogger("node.results")

RESULTS: Final = 4
"""A result may be so many times the size of the files in it before it is sent unasked: heads, and logs that
come twice."""
HEADS: Final = 16 * 1024
"""Bytes of a result beside its files."""
KEPT: Final = 4 << 20
"""Bytes of results that wait at most."""
_SMALL: Final = CollectForm(CRC32)


def bound_of(size: int) -> int:
    """Bytes that come of files of this size at most."""
    return HEADS + size * RESULTS


@dataclass(frozen=True, slots=True)
class _ReadResult:
    """All but the first frame, which tells how far its script has come, too."""

    manifest: dict[str, Any]
    logs: Logs
    frames: bytes


class SmallResults:
    def __init__(self, table: PayloadTable, workspace: Workspace) -> None:
        self._table = table
        self._workspace = workspace
        self._wanted: dict[object, int] = {}
        self._most = 0
        """Of what is wanted."""
        self._waiting: dict[str, _ReadResult] = {}
        self._size = 0
        self._lock = threading.Lock()

    @contextmanager
    def wanted(self, most: int) -> Iterator[None]:
        """While it is open results of up to so many bytes are read as soon as they are there."""
        mark = object()
        self._wanted[mark] = most
        self._most = max(self._wanted.values())
        try:
            yield
        finally:
            del self._wanted[mark]
            self._most = max(self._wanted.values(), default=0)

    def read_early(self, payload: Payload, frozen: FrozenManifest) -> None:
        """Read what it left if somebody wants it. Blocks; nothing of it lives."""
        most = self._most
        if not payload.owner or bound_of(frozen.size) > most:
            return
        directory = self._workspace.directory(payload.key)
        try:
            packed = _gather(pack_files(directory, frozen.listing, frozen.logs, _SMALL), most)
        except (OSError, WireError):
            return  # It is tried again when it is to be told.
        except Exception:
            # Only earlier than it must be: whoever ends payloads goes on, whatever a script has left.
            log.exception("what attempt %s has left cannot be read yet", payload.key)
            return
        if not packed:
            return
        with self._lock:
            self._waiting[payload.key] = _ReadResult(frozen.manifest, frozen.logs, packed)
            self._size += len(packed)
            while self._size > KEPT:
                self._drop(next(iter(self._waiting)))  # the oldest

    def drop(self, key: str) -> None:
        """It is not to be told."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> _ReadResult | None:
        if (found := self._waiting.pop(key, None)) is not None:
            self._size -= len(found.frames)
        return found

    def take(self, payloads: Iterable[Payload], most: int) -> dict[str, tuple[dict[str, Any], bytes]]:
        """How the wire tells those that wait, by their keys, and their frames, which are no more than `most`
        bytes each."""
        with self._lock:
            found = [(payload, read) for payload in payloads if (read := self._drop(payload.key)) is not None]
        taken = {}
        for payload, read in found:
            # Of what is released nobody wants to hear.
            if self._table.get(payload.key) is None:
                continue
            view = view_to_json(view_of(payload))
            head = encode_end(payload, view, read.manifest, read.logs)
            if head and len(head) + len(read.frames) <= most:
                taken[payload.key] = view, head + read.frames
        return taken

    async def read(self, payloads: Sequence[Payload], most: int, thread: KeptThreads) -> list[bytes]:
        """The frames of each, in one thread call; empty for what cannot be read now, or is more than `most`
        bytes."""
        with ExitStack() as stack:
            for payload in payloads:
                stack.enter_context(self._workspace.reading(payload.key))
            there, _ = self._table.find_known([payload.key for payload in payloads])
            return await thread.run(
                lambda: [
                    self._collect(payload, most) if payload.key in there else b"" for payload in payloads
                ]
            )

    def _collect(self, payload: Payload, most: int) -> bytes:
        directory = self._workspace.directory(payload.key)
        try:
            return _gather(collect_one(payload, directory, _SMALL), most)
        except (OSError, WireError):
            return b""


def _gather(pieces: Iterable[bytes], most: int) -> bytes:
    """All of them; empty if they are more than so many bytes."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > most:
            return b""
    return bytes(found)
