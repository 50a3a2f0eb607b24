"""Payloads as they arrive over HTTP, in both dialects: read, written down, and handed to the table whole."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import trio

from actors.domain.batch_request import request_from_json
from actors.domain.ids import is_key
from actors.domain.limits import limits_from_json
from actors.domain.node import PayloadView
from actors.domain.payload import Payload
from actors.store.durable import is_full
from actors.wire.errors import BadRequest
from actors.wire.files.names import printable
from actors.wire.multipart.reader import Part, Sink, TextSink, read_parts, refuse_file_without_name
from actors.wire.protocol.attempts import view_to_json
from node.access.gate import refuse_other_owner
from node.payloads.operations import AcceptResult, Arrival
from node.payloads.records import OutOfIds
from node.payloads.table import PayloadTable, view_of
from node.runs.workspace import Incoming, Workspace

_Read = TypeVar("_Read")

DEAD: Final = "it was cancelled or released"
FORM_LIMIT: Final = 16 << 20
"""Bytes of the JSON part that names the attempts."""


class ItemResult(StrEnum):
    """What is answered for one attempt. BUSY: not now (disk full, or another request is bringing it)."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    TOMBSTONED = "tombstoned"
    MALFORMED = "malformed"
    BUSY = "busy"


@dataclass(slots=True)
class Item:
    """One attempt of a submit. `result` None while its files are wanted."""

    key: str
    arrived: dict[str, Any]
    owner: str
    result: ItemResult | None = None
    reason: str = ""
    view: PayloadView | None = None
    disk_full: bool = False

    def to_json(self) -> dict[str, Any]:
        assert self.result is not None
        payload = None if self.view is None else view_to_json(self.view)
        return {"key": self.key, "result": self.result, "reason": self.reason, "payload": payload}


class SubmitReceiver:
    """Reads submits. `receiving` has for each key whose files are arriving now the submit that brings it."""

    def __init__(self, table: PayloadTable, workspace: Workspace, limit: int) -> None:
        self._table = table
        self._workspace = workspace
        self._limit = limit
        self.receiving: dict[str, _Submit] = {}

    def refuse(self, keys: Iterable[str]) -> None:
        """These keys have just been tombstoned: what still arrives for them need not be read."""
        for key in keys:
            if (submit := self.receiving.get(key)) is not None:
                submit.refuse(key)

    async def contract(self, content_type: str, body: AsyncIterator[bytes]) -> Payload:
        """One payload by the contract's `/submit`. Raises `WireError`, `OSError`, `OutOfIds`."""
        key = secrets.token_hex(16)
        incoming = self._workspace.receive()
        try:
            incoming.add(key)

            async def on_part(part: Part) -> Sink | None:
                if part.filename is None:
                    refuse_file_without_name(part)
                    return None
                incoming.open(key, contract_path(part.name, part.filename))
                return _FileSink(incoming)

            await read_parts(content_type, body, limit=self._limit, on_part=on_part)
            (accepted,) = await self._table.accept(
                [Arrival(key, incoming.directory(key))], incoming.write_out
            )
            incoming.hand_over(key)
        finally:
            await incoming.close()  # noqa: ASYNC102  # it shields itself, with a timeout
        assert accepted.payload is not None
        return accepted.payload

    async def small(self, form: Any, files: bytes) -> list[Item]:
        """Attempts with small files by the link; as `attempts`. `form` is as there, with the files of each
        attempt, [path, bytes], which stand in `files` one after the other."""
        submit = _Submit(self._table, self._workspace.receive(), self.receiving)
        try:
            return await submit.take(form, files, self._limit)
        finally:
            await submit.close()  # noqa: ASYNC102  # it shields itself, with a timeout

    async def attempts(
        self, content_type: str, body: AsyncIterator[bytes], *, through: bool = False
    ) -> list[Item]:
        """Attempts by `POST /v1/attempts`; each with its result. One bad item spoils no other. `through`: who
        sends them names no boot. Raises `WireError` for a body that cannot be read."""
        submit = _Submit(self._table, self._workspace.receive(), self.receiving, through=through)
        try:
            with trio.CancelScope() as submit.reading:
                await read_parts(content_type, body, limit=self._limit, on_part=submit.on_part)
            return await submit.finish()
        finally:
            await submit.close()  # noqa: ASYNC102  # it shields itself, with a timeout


def contract_path(name: str, filename: str) -> str:
    """Where a file sent to `/submit` goes: servers name the part by the whole path, people by anything."""
    base = filename.rsplit("/", 1)[-1]
    return name if name.rsplit("/", 1)[-1] in (filename, base) else base


class _FileSink:
    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    async def write(self, data: bytes) -> None:
        await self._incoming.write(data)

    async def close(self) -> None:
        """The bytes are gathered with others; `flush` writes them."""


class _Submit:
    """One request that brings attempts. Cancelling `reading`, where there is one, ends the reading of its
    body."""

    def __init__(
        self,
        table: PayloadTable,
        incoming: Incoming,
        receiving: dict[str, _Submit],
        *,
        through: bool = False,
    ) -> None:
        self._through = through
        self.reading: trio.CancelScope | None = None
        self._table = table
        self._incoming = incoming
        self._receiving = receiving
        self._mine: set[str] = set()
        self._form: TextSink | None = None
        self._items: dict[str, Item] | None = None

    async def on_part(self, part: Part) -> Sink | None:
        if self._form is None:
            if part.name != "attempts" or part.filename is not None:
                raise BadRequest("the first part must be the JSON part `attempts`")
            self._form = TextSink(part.name, FORM_LIMIT)
            return self._form
        items = await self._read_items()
        if part.filename is None:
            return None
        key, slash, path = part.name.partition("/")
        item = items.get(key)
        if item is None or not slash:
            raise BadRequest(f"part {printable(part.name)}: it belongs to none of the attempts")
        if item.result is not None:
            return None
        try:
            self._incoming.open(key, path)
        except BadRequest as why:
            await self._give_up(item, ItemResult.MALFORMED, why.detail)
            self._stop_reading_if_all_have_results()
            return None
        return _AttemptSink(self, item)

    def refuse(self, key: str) -> None:
        """An order to cancel or release came in while the files arrive. When none of them is wanted any more
        nothing is read on."""
        if (item := (self._items or {}).get(key)) is not None and item.result is None:
            item.result, item.reason = ItemResult.TOMBSTONED, DEAD
        self._stop_reading_if_all_have_results()

    async def write(self, item: Item, data: bytes) -> None:
        if item.result is None:
            try:
                await self._incoming.write(data)
            except OSError as why:
                await self._no_room(why)

    async def take(self, form: Any, files: bytes, limit: int) -> list[Item]:
        """All of it at once. Who is known is found out as they are accepted."""
        items = self._items = items_of(form)
        at = 0
        for item, entry in zip(items.values(), form["attempts"], strict=True):
            listed = _listed_files(entry)
            size = 0
            for _, length in listed:
                size += length
            if size > limit and item.result is None:
                item.result, item.reason = ItemResult.MALFORMED, f"more than {limit} bytes"
            self._claim(item)
            if item.result is None:
                self._incoming.add(item.key)
            for path, length in listed:
                piece = files[at : at + length]
                at += length
                if item.result is None:
                    try:
                        self._incoming.put(item.key, path, piece)
                    except BadRequest as why:
                        await self._give_up(item, ItemResult.MALFORMED, why.detail)
        if at != len(files):
            raise BadRequest("the files are not as many bytes as was said")
        return await self._accept(items)

    def _claim(self, item: Item) -> None:
        """Two requests cannot both bring an attempt."""
        if item.result is not None:
            return
        if item.key in self._receiving:
            item.result, item.reason = ItemResult.BUSY, "it is being received by another request"
        else:
            self._receiving[item.key] = self
            self._mine.add(item.key)

    async def finish(self) -> list[Item]:
        if self._form is None:
            raise BadRequest("the JSON part `attempts` is missing")
        return await self._accept(await self._read_items())

    async def _accept(self, items: Mapping[str, Item]) -> list[Item]:
        try:
            wanted = [item for item in items.values() if item.result is None]
            arrived = [
                Arrival(
                    key=item.key,
                    directory=self._incoming.directory(item.key),
                    through=self._through,
                    **item.arrived,
                )
                for item in wanted
            ]
            answers = await self._table.accept(arrived, self._incoming.write_out) if arrived else ()
            for item, accepted in zip(wanted, answers, strict=True):
                item.result = ItemResult(accepted.result)
                if accepted.result is AcceptResult.ACCEPTED:
                    self._incoming.hand_over(item.key)
                if accepted.payload is not None:
                    item.view = view_of(accepted.payload)
                if accepted.result is AcceptResult.TOMBSTONED:
                    item.reason = DEAD
        except (OSError, OutOfIds) as why:
            await self._no_room(why)
        return list(items.values())

    async def close(self) -> None:
        for key in self._mine:
            del self._receiving[key]
        self._mine.clear()
        await self._incoming.close()

    async def _read_items(self) -> dict[str, Item]:
        """The items of the form, once it has been read; begun when they are asked for first."""
        if self._items is None:
            assert self._form is not None
            self._items = read_form(self._form.text)
            await self._begin(self._items)
        return self._items

    async def _begin(self, items: Mapping[str, Item]) -> None:
        """Find out whose files are wanted, and make room for them."""
        there, dead = self._table.find_known(list(items))
        # Nothing is awaited from here to where the keys are marked: two requests cannot both bring one.
        for item in items.values():
            if item.result is not None:
                continue
            if item.key in there:
                item.result, item.view = ItemResult.KNOWN, view_of(there[item.key])
            elif item.key in dead:
                item.result, item.reason = ItemResult.TOMBSTONED, DEAD
            else:
                self._claim(item)
        self._incoming.add(*(key for key, item in items.items() if item.result is None))
        self._stop_reading_if_all_have_results()

    def _stop_reading_if_all_have_results(self) -> None:
        if self.reading is None:
            return
        if all(item.result is not None for item in (self._items or {}).values()):
            self.reading.cancel()

    async def _give_up(self, item: Item, result: ItemResult, reason: str) -> None:
        item.result, item.reason = result, reason
        if item.key in self._mine:
            self._mine.discard(item.key)
            del self._receiving[item.key]
        await self._incoming.drop(item.key)

    async def _no_room(self, why: OSError | OutOfIds) -> None:
        """What was gathered is written together, so it fails together."""
        reason = (why.strerror or str(why)) if isinstance(why, OSError) else str(why)
        for item in (self._items or {}).values():
            if item.result is None:
                item.disk_full = is_full(why)
                await self._give_up(item, ItemResult.BUSY, f"cannot be stored now: {reason}")
        self._stop_reading_if_all_have_results()


class _AttemptSink:
    def __init__(self, submit: _Submit, item: Item) -> None:
        self._submit = submit
        self._item = item

    async def write(self, data: bytes) -> None:
        await self._submit.write(self._item, data)

    async def close(self) -> None:
        """The bytes are gathered with others; `finish` writes them."""
        await trio.lowlevel.checkpoint()


def read_form(text: str) -> dict[str, Item]:
    """The attempts that a submit announces, by key. Raises `BadRequest` when it cannot be told which they
    are; an attempt that is wrong in itself is malformed."""
    try:
        form = json.loads(text)
    except (ValueError, RecursionError):
        form = None
    return items_of(form)


def items_of(form: Any) -> dict[str, Item]:
    """As `read_form`."""
    try:
        owner, listed = form["owner"], form["attempts"]
    except (KeyError, TypeError):
        raise BadRequest("part `attempts`: an object with `owner` and `attempts` was expected") from None
    if not _is_name(owner) or not owner:
        raise BadRequest("part `attempts`: `owner` must be the orchestrator's id")
    refuse_other_owner(owner)
    if not isinstance(listed, list) or not listed:
        raise BadRequest("part `attempts`: `attempts` must be a list that is not empty")
    items: dict[str, Item] = {}
    for entry in listed:
        key = entry.get("key") if isinstance(entry, dict) else None
        if not is_key(key):
            raise BadRequest(f"part `attempts`: {printable(repr(key))} is no key (32 hex digits)")
        if key in items:
            raise BadRequest(f"part `attempts`: key {key} is there twice")
        items[key] = _item(key, entry, owner)
    return items


def _item(key: str, entry: dict[str, Any], owner: str) -> Item:
    runtime = entry.get("max_runtime_seconds", 0)
    slot_wait = entry.get("slot_wait_seconds")
    limits = _read(limits_from_json, entry.get("limits", {}))
    request = _read(request_from_json, entry.get("batch_request", {}))
    checks = (
        ("job", _is_whole(entry.get("job"), 0)),
        ("n", _is_whole(entry.get("n"), 1)),
        ("user", _is_whole(entry.get("user"), -(1 << 63))),
        ("service", _is_name(entry.get("service"))),
        ("max_runtime_seconds", _is_seconds(runtime)),
        ("slot_wait_seconds", slot_wait is None or _is_seconds(slot_wait)),
        ("limits", limits is not None),
        ("batch_request", request is not None),
        ("request_id", _is_name(entry.get("request_id", ""))),
    )
    wrong = [name for name, right in checks if not right]
    if wrong:
        return Item(key, {}, owner, ItemResult.MALFORMED, f"{', '.join(wrong)}: missing or no right value")
    arrived = {
        "job_id": entry["job"],
        "n": entry["n"],
        "service": entry["service"],
        "user_id": entry["user"],
        "owner": owner,
        "max_runtime": float(runtime),
        "limits": limits,
        "batch_request": request,
        "request_id": entry.get("request_id", ""),
        "slot_wait": None if slot_wait is None else float(slot_wait),
    }
    return Item(key, arrived, owner)


def _listed_files(entry: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Of an attempt that comes by the link. Raises `BadRequest`."""
    try:
        listed = [(path, size) for path, size in entry["files"]]
    except (KeyError, TypeError, ValueError):
        listed = [("", -1)]
    for path, size in listed:
        if not isinstance(path, str) or not _is_whole(size, 0):
            raise BadRequest("files: a list of [path, bytes] was expected")
    return listed


def _read(read: Callable[[object], _Read], value: object) -> _Read | None:
    """None for what cannot be read."""
    try:
        return read(value)
    except ValueError:
        return None


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and least <= value < 1 << 63  # True is none


def _is_name(value: object) -> bool:
    """Text that can stand in an environment variable and in SQLite."""
    return isinstance(value, str) and len(value) <= 200 and value.isprintable()


def _is_seconds(value: object) -> bool:
    return (type(value) is int or type(value) is float) and 0 <= value <= sys.float_info.max
