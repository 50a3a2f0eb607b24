"""Results on their way from a native node into our storage: the frames of `/v1/collect`.

An attempt is stored when its finish record agrees with what arrived and the sink has synced it. Before that
nothing of it counts: a stream that tears loses what was not yet stored, and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from actors.domain.job import End
from actors.ports.ledger import LedgerError
from actors.ports.nodes import CollectAnswer, CollectResult, Dispatch
from actors.ports.storage import StorageError
from actors.wire.errors import BadArchive, WireError
from actors.wire.files.listing import Entry
from actors.wire.files.zip_check import Extent
from actors.wire.protocol import frames
from actors.wire.protocol.attempts import Garbled, view_from_json
from orchestrator.http_client import Broken
from orchestrator.nodes.job_files import LOGS, JobFiles
from orchestrator.storage.disk import StorageFull
from orchestrator.storage.incoming import InputDiffers
from orchestrator.storage.result_sink import DiskResultSink
from orchestrator.storage.upload import StoredInput

_STREAMS: Final = {frames.ZIP: "zip", frames.STDOUT: "stdout", frames.STDERR: "stderr"}
_CLEANING: Final = 10.0
RESULT_LIMIT: Final = 1 << 40
"""Bytes of files that a job may leave: far more than our nodes take by themselves."""
UNTOLD: Final = 1 << 30
"""Bytes that may come of an attempt beyond what the node has told: heads, and logs that were not counted."""

log = logging.getLogger(__name__)

_from_json: Final = json.JSONDecoder().decode


async def receive(
    body: AsyncIterable[bytes],
    items: Sequence[Dispatch],
    files: JobFiles,
    differing: set[str] | None = None,
    limit: int = RESULT_LIMIT,
) -> dict[str, CollectAnswer]:
    """Store what the stream holds of `items`; the answers by key, for every item. To `differing` go the keys
    of those whose input here is not what their node received: it has to send all of their bytes. A node that
    answers without an end is not listened to for ever: each attempt comes once, and is no larger than the
    node has told. Of one that has left more than `limit` bytes nothing is stored."""
    answers: dict[str, CollectAnswer] = {}
    wanted = {item.attempt.key: item for item in items}
    why, ours = "the node's answer ended before it", False
    incoming: IncomingResult | None = None
    try:
        async for kind, data in frames.FrameReader(body):
            if kind == frames.ERROR:
                _record_refusal(data, wanted, answers)
            elif kind == frames.END:
                if incoming is not None:
                    raise Garbled("an attempt's results begin before the last one's are complete")
                incoming = _begin(data, wanted, answers, files, limit)
            elif incoming is None:
                raise Garbled("a frame that belongs to no attempt")
            else:
                answer = await incoming.take(kind, data)
                if answer is not None:
                    answers[incoming.key] = answer
            if incoming is not None and incoming.disk_full:
                why, ours = incoming.trouble, True
                break
            if kind in (frames.FINISH, frames.ERROR) and incoming is not None:
                if incoming.input_differs and differing is not None:
                    differing.add(incoming.key)
                await incoming.drop()
                incoming = None
    except (Broken, WireError) as error:
        why = f"the results did not arrive: {error}"
    finally:
        if incoming is not None:
            await incoming.drop()  # noqa: ASYNC102  # it shields itself, with a timeout
    rest = CollectAnswer(CollectResult.FAILED, reason=why, ours=ours)
    return {key: answers.get(key, rest) for key in wanted}


class IncomingResult:
    """One attempt's part of the stream. Trouble with our own storage is remembered and the rest of the part
    read past, so that the attempts after it still arrive."""

    def __init__(self, key: str, end: End, manifest: dict[str, Any], logs: list[Any], told: int) -> None:
        """`told`: bytes that the node says there are, logs and names included."""
        self.key: Final = key
        # Logs come twice, by themselves and in the zip; the names are in the zip twice.
        self._most = 2 * told + UNTOLD
        self._told = told
        self._too_much = ""
        self.trouble = ""
        self.disk_full = False
        self.input_differs = False
        self._end = end
        self._logs = logs
        self._manifest = manifest
        self._sink: DiskResultSink | None = None
        self._sizes = {"zip": 0, "stdout": 0, "stderr": 0}

    def open(self, item: Dispatch, files: JobFiles) -> None:
        self._inputs = partial(_list_inputs, files, item)
        try:
            self._sink = files.receive_result(item.job.storage_key, self.key)
            entries = self._manifest.get("entries")
            members = len(entries) if isinstance(entries, list) else 0
            self._sink.expect(Extent(members + len(LOGS), self._told + UNTOLD))
        except StorageError as error:
            self._note(error)

    def refuse(self, why: str) -> None:
        """In place of `open`: what comes is read past."""
        self._too_much = why

    async def take(self, kind: bytes, data: bytes) -> CollectAnswer | None:
        """The answer once the part is over."""
        if kind == frames.FINISH:
            return await self._finish(data)
        if kind == frames.INPUT:
            await self._take_input(data)
            return None
        stream = _STREAMS[kind]
        self._count(stream, len(data))
        if self._sink is not None and not self.trouble:
            try:
                if kind == frames.ZIP:
                    await self._sink.write_zip(data)
                else:
                    await self._sink.write_log(stream, data)
            except StorageError as error:
                self._note(error)
        return None

    async def _take_input(self, data: bytes) -> None:
        match _object(data, "input record"):
            case {"path": str(path), "size": int(size), "crc": int(crc)} if size > 0:
                self._count("zip", size)
            case _:
                raise Garbled("an input record: path, size and crc were expected")
        if self._sink is None or self.trouble:
            return
        try:
            found = {name: (source, there) for name, source, there in await self._inputs()}
            source, there = found.get(path, (None, 0))
            if not isinstance(source, Path) or there != size:
                raise InputDiffers(f"there is no such file of {size} bytes")
            await self._sink.copy_to_zip(source, size, crc)
        except InputDiffers as why:
            self.input_differs = True
            self.trouble = f"of the input the node received {path!r}, which we do not have so: {why}"
            log.warning("attempt %s: %s", self.key, self.trouble)
        except (StorageError, LedgerError) as error:
            self._note(error)

    def _count(self, stream: str, size: int) -> None:
        self._sizes[stream] += size
        if sum(self._sizes.values()) > self._most:
            raise Garbled(f"more than {self._most} bytes come of an attempt that has left less")

    async def _finish(self, data: bytes) -> CollectAnswer:
        if self._too_much:
            return CollectAnswer(CollectResult.IMPOSSIBLE, reason=self._too_much)
        if self._sink is None or self.trouble:
            return CollectAnswer(CollectResult.FAILED, reason=self.trouble, ours=True)
        record = _object(data, "finish record")
        expected: dict[str, Any] = {f"{stream}_size": size for stream, size in self._sizes.items()}
        for name, value in expected.items():
            if record.get(name) != value:
                reason = f"{name} is {value}, the node says {record.get(name)}"
                return CollectAnswer(CollectResult.FAILED, reason=f"damaged on the way: {reason}")
        crc = record.get("zip_crc32")
        try:
            if not isinstance(crc, int | None):
                raise Garbled("zip_crc32: a number was expected")
            results = await self._sink.commit(self._manifest, self._list_expected(), crc)
        except (StorageError, BadArchive, Garbled) as error:
            self._note(error)
            ours = isinstance(error, StorageError)
            return CollectAnswer(CollectResult.FAILED, reason=self.trouble, ours=ours)
        self._sink = None  # which keeps what it has
        return CollectAnswer(CollectResult.STORED, end=self._end, results=results)

    def _list_expected(self) -> list[Entry]:
        """The members that the zip has to have: what the manifest names, and the logs beside it."""
        listed = self._manifest.get("entries")
        if not isinstance(listed, list):
            raise Garbled("manifest.entries: a list was expected")
        entries = [_entry(form) for form in listed]
        names = {entry.path for entry in entries}
        for name, stream in LOGS.items():
            if name not in names and name in self._logs:
                entries.append(Entry(name, name.encode(), self._sizes[stream], 0o644, 0.0, "file"))
        return entries

    async def drop(self) -> None:
        """Whatever was not committed goes away."""
        if self._sink is None:
            return
        with trio.move_on_after(_CLEANING, shield=True):
            try:
                await self._sink.abort()
            except StorageError as error:
                log.warning("attempt %s: %s", self.key, error)

    def _note(self, error: Exception) -> None:
        self.trouble = f"the results cannot be stored: {error}"
        self.disk_full = isinstance(error, StorageFull)


async def _list_inputs(files: JobFiles, item: Dispatch) -> Sequence[StoredInput]:
    return await files.input_files(item.job.storage_key)


def _entry(form: Any) -> Entry:
    match form:
        case {"path": str(path), "kind": "file" | "directory" | "link" as kind, "size": int(size)}:
            target = form.get("target")
            if target is None or isinstance(target, str):
                return Entry(path, path.encode("utf-8", "replace"), size, 0, 0.0, kind, target)
    raise Garbled("manifest.entries[]: path, kind and size were expected")


def _begin(
    data: bytes,
    wanted: Mapping[str, Dispatch],
    answers: Mapping[str, CollectAnswer],
    files: JobFiles,
    limit: int,
) -> IncomingResult:
    record = _object(data, "end record")
    key, manifest = record.get("key"), record.get("manifest")
    if not isinstance(key, str) or key not in wanted or key in answers:
        raise Garbled("results of an attempt that was not asked for, or has come before")
    # The node has told the end by now, and says it once more.
    end = wanted[key].job.end or _read_end(record, key)
    # What never ran has no logs, and a zip without them.
    logs = record.get("logs", list(LOGS))
    if not isinstance(manifest, dict) or not isinstance(logs, list):
        raise Garbled("results without a manifest")
    size = _count_bytes(manifest)
    incoming = IncomingResult(key, end, manifest, logs, end.size + size + len(data))
    if max(size, end.size) > limit:
        incoming.refuse(
            f"its files have {max(size, end.size)} bytes, and {limit} are the limit (result_limit)"
        )
    else:
        incoming.open(wanted[key], files)
    return incoming


def _read_end(record: Mapping[str, Any], key: str) -> End:
    view = view_from_json(record.get("payload"))
    if view.key != key or view.end is None:
        raise Garbled("results without an end, or with that of another attempt")
    return view.end


def _count_bytes(manifest: Mapping[str, Any]) -> int:
    """Of the files that it names."""
    entries = manifest.get("entries")
    sizes = (
        [form.get("size") for form in entries if isinstance(form, dict)] if isinstance(entries, list) else ()
    )
    return sum(size for size in sizes if isinstance(size, int) and size > 0)


def _record_refusal(data: bytes, wanted: Mapping[str, Dispatch], answers: dict[str, CollectAnswer]) -> None:
    record = _object(data, "error record")
    key, error = record.get("key"), record.get("error")
    if not isinstance(key, str) or key not in wanted or key in answers:
        raise Garbled("an error of an attempt that was not asked for, or has come before")
    results = {"gone": CollectResult.GONE, "not_ended": CollectResult.NOT_ENDED}
    lasting = CollectResult.IMPOSSIBLE if record.get("permanent") is True else CollectResult.FAILED
    result = results.get(str(error), lasting)
    answers[key] = CollectAnswer(result, reason=f"the node says: {error}")


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        record = _from_json(str(data, "utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise Garbled(f"{what}: no JSON object")
    return record
