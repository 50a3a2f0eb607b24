"""Commands to a node that speaks our attempts protocol (`/v1`), and what its answers mean.

Every answer that does not make sense is the same as none: it changes nothing that is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

from actors.domain.batch_request import request_to_json
from actors.domain.job import Attempt
from actors.domain.limits import limits_to_json
from actors.domain.node import NodeRef, PayloadView
from actors.kernel.concurrently import map_concurrently
from actors.ports.ledger import LedgerError
from actors.ports.nodes import (
    AttemptLookup,
    CollectAnswer,
    CollectResult,
    Dispatch,
    LookupResult,
    SubmitAnswer,
    SubmitResult,
)
from actors.ports.storage import StorageError
from actors.wire.errors import BadRequest
from actors.wire.files.last_lines import LOG_OFFSET, LOG_SIZE, Tail
from actors.wire.http.patience import SILENCE
from actors.wire.link.link import InDoubt, NotSent
from actors.wire.link.session import Lane
from actors.wire.multipart.writer import DataPart, FilePart, MultipartBody, file_part
from actors.wire.pieces import Pieces
from actors.wire.protocol.attempts import Garbled, items, view_from_json
from orchestrator.http_client import (
    BodyUnreadable,
    Broken,
    Deadlines,
    Http,
    NoPort,
    NotReached,
    Reply,
    Scarce,
)
from orchestrator.nodes.job_files import JobFiles
from orchestrator.nodes.native.link import NodeLink, NodeLinks
from orchestrator.nodes.native.results import RESULT_LIMIT, receive
from orchestrator.nodes.refusals import error_text, json_body, refusal, unreadable
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode, RemoteStream
from orchestrator.storage.upload import StoredInput

Inputs = Sequence[StoredInput]

_AT_ONCE: Final = 8
_ZIPPING: Final = Deadlines(head=SILENCE)
_LISTING: Final = 64 << 20
"""Bytes of the list of an attempt's files."""
SLOT_WAIT: Final = 1.0
"""Seconds that an attempt may wait on its node for a slot: another node may have one meanwhile."""
_LOOK_CODES: Final = {
    (404, "not_found"): LookupResult.GONE,
    (409, "receiving"): LookupResult.RECEIVING,
    (410, "tombstoned"): LookupResult.TOMBSTONED,
}
_CANCEL_RESULTS: Final = {"tombstoned": LookupResult.TOMBSTONED, "found": LookupResult.FOUND}
_LOOK_RESULTS: Final = {
    **_CANCEL_RESULTS,
    "gone": LookupResult.GONE,
    "receiving": LookupResult.RECEIVING,
}
_SUBMIT_RESULTS: Final = {
    "accepted": SubmitResult.HAS,
    "known": SubmitResult.HAS,
    "tombstoned": SubmitResult.TOMBSTONED,
    "malformed": SubmitResult.MALFORMED,
    "busy": SubmitResult.BUSY,
}


class NativeNodes:
    """`owner` is the id of this orchestrator, under which nodes keep its payloads. Orders go over the link
    of a node that has one; large files, and all for an older node, over HTTP. A job that has left more than
    `result_limit` bytes is refused."""

    def __init__(
        self, http: Http, owner: str, files: JobFiles, links: NodeLinks, result_limit: int = RESULT_LIMIT
    ) -> None:
        self._http = http
        self._owner = owner
        self._files = files
        self._links = links
        self._result_limit = result_limit

    # ------------------------------------------------------------------ submit

    async def submit(self, node: NodeRef, dispatches: Sequence[Dispatch]) -> list[SubmitAnswer]:
        answers: dict[str, SubmitAnswer] = {}
        readable: list[tuple[Dispatch, Inputs]] = []
        for dispatch in dispatches:
            try:
                readable.append(
                    (dispatch, await self._files.input_files(dispatch.job.storage_key, dispatch.job.size))
                )
            except StorageError as error:
                answers[dispatch.attempt.key] = unreadable(error)
            except LedgerError as error:
                answers[dispatch.attempt.key] = SubmitAnswer(SubmitResult.NOT_SENT, str(error))
        try:
            link = self._links.to(node)
        except NotSent as error:
            answers |= {
                dispatch.attempt.key: SubmitAnswer(SubmitResult.NOT_SENT, str(error))
                for dispatch, _ in readable
            }
            return [answers[dispatch.attempt.key] for dispatch in dispatches]
        if link is not None:
            small = [one for one in readable if _is_small(one[1])]
            large = [] if len(small) == len(readable) else [one for one in readable if not _is_small(one[1])]
            if small:
                answers |= await self._send_by_link(link, small)
            readable = large
        if readable:
            answers |= await self._send(node, readable)
        return [answers[dispatch.attempt.key] for dispatch in dispatches]

    async def _send_by_link(
        self, link: NodeLink, batch: Sequence[tuple[Dispatch, Inputs]]
    ) -> dict[str, SubmitAnswer]:
        keys = [dispatch.attempt.key for dispatch, _ in batch]
        listed = [
            {**_listed(dispatch), "files": [[path, size] for path, _, size in files]}
            for dispatch, files in batch
        ]
        files = b"".join(source for _, files in batch for _, source, _ in files if isinstance(source, bytes))
        try:
            data = await link.ask("submit", {"owner": self._owner, "attempts": listed}, files)
            if "error" not in data:
                return _submit_answers(data, keys)
            result = SubmitResult.MALFORMED if data.get("malformed") is True else SubmitResult.DOUBT
            answer = SubmitAnswer(result, f"the node says: {data['error']}")
        except NotSent as error:
            answer = SubmitAnswer(SubmitResult.NOT_SENT, str(error))
        except (InDoubt, Garbled) as error:
            answer = SubmitAnswer(SubmitResult.DOUBT, str(error))
        if len(batch) > 1 and answer.result is SubmitResult.MALFORMED:
            # As in `_send`.
            return {k: value for one in batch for k, value in (await self._send_by_link(link, [one])).items()}
        return dict.fromkeys(keys, answer)

    async def _send(self, node: NodeRef, batch: Sequence[tuple[Dispatch, Inputs]]) -> dict[str, SubmitAnswer]:
        keys = [dispatch.attempt.key for dispatch, _ in batch]
        broken_off = False
        try:
            async with self._http.exchange(
                "POST",
                f"{node.url}/v1/attempts",
                headers=self._links.headers(node, "POST", "/v1/attempts"),
                body=self._body(batch),
            ) as reply:
                if reply.status == 200:
                    return _submit_answers(await reply.json(), keys)
                data = await json_body(reply)
                if isinstance(data, dict) and "items" in data:
                    return _submit_answers(data, keys)
                answer = refusal(reply.status, data)
        except BadRequest as error:
            answer = SubmitAnswer(SubmitResult.MALFORMED, str(error))
        except BodyUnreadable as error:
            broken_off, answer = True, unreadable(error)
        except (Scarce, NoPort) as error:
            answer = SubmitAnswer(SubmitResult.HELD, str(error))
        except (NotReached, NotSent) as error:
            answer = SubmitAnswer(SubmitResult.NOT_SENT, str(error))
        except (Broken, Garbled) as error:
            answer = SubmitAnswer(SubmitResult.DOUBT, str(error))
        if len(batch) > 1 and (broken_off or answer.result is SubmitResult.MALFORMED):
            # One of them spoils it for all, and only the whole was answered. Keys make it harmless to send
            # again what may have arrived.
            return {key: value for one in batch for key, value in (await self._send(node, [one])).items()}
        return dict.fromkeys(keys, answer)

    def _body(self, batch: Sequence[tuple[Dispatch, Inputs]]) -> MultipartBody:
        """Raises BadRequest for a file name that cannot be sent."""
        listed = [_listed(dispatch) for dispatch, _ in batch]
        form = json.dumps({"owner": self._owner, "attempts": listed}).encode()
        parts: list[DataPart | FilePart] = [DataPart("attempts", None, "application/json", form)]
        for dispatch, files in batch:
            for path, source, size in files:
                name = f"{dispatch.attempt.key}/{path}"
                parts.append(file_part(name, name, source, size))
        return MultipartBody(parts)

    # ------------------------------------------------------------------ look, cancel, release

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> list[AttemptLookup]:
        try:
            if (link := self._links.to(node)) is not None:
                listed = await self._order(node, link, "lookup", attempts)
                return [_parse_look(listed.get(one.key), one.key, _LOOK_RESULTS) for one in attempts]
        except (NotReached, Broken, Garbled, NotSent, InDoubt) as error:
            return [AttemptLookup(LookupResult.UNKNOWN, reason=str(error)) for _ in attempts]

        async def one(attempt: Attempt) -> AttemptLookup:
            target = f"/v1/attempts/{attempt.key}"
            try:
                headers = self._links.headers(node, "GET", target)
                async with self._http.exchange("GET", node.url + target, headers=headers) as reply:
                    return await _parse_lookup(reply, attempt.key)
            except (NotReached, Broken, Garbled, NotSent) as error:
                return AttemptLookup(LookupResult.UNKNOWN, reason=str(error))

        return await map_concurrently(one, attempts, at_once=_AT_ONCE)

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> list[AttemptLookup]:
        try:
            listed = await self._order(node, self._links.to(node), "cancel", attempts)
            return [_parse_look(listed.get(one.key), one.key, _CANCEL_RESULTS) for one in attempts]
        except (NotReached, Broken, Garbled, NotSent, InDoubt) as error:
            return [AttemptLookup(LookupResult.UNKNOWN, reason=str(error)) for _ in attempts]

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> list[bool]:
        try:
            link = self._links.to(node)
            if link is not None:
                for attempt in attempts:
                    link.take_results(attempt.key)
            listed = await self._order(node, link, "release", attempts)
        except (NotReached, Broken, Garbled, NotSent, InDoubt):
            return [False for _ in attempts]
        return [listed.get(attempt.key, {}).get("result") == "released" for attempt in attempts]

    async def _order(
        self, node: NodeRef, link: NodeLink | None, verb: str, attempts: Sequence[Attempt]
    ) -> dict[str, Mapping[str, Any]]:
        """What the node says of each, by key. Raises NotReached, Broken, Garbled; NotSent, InDoubt."""
        keys = [attempt.key for attempt in attempts]
        if link is not None:
            lane = Lane.URGENT if verb == "cancel" else Lane.ORDERS
            said = await link.ask(verb, {"keys": keys}, lane=lane)
            if "error" in said:
                raise Garbled(f"the node says: {said['error']}")
            return _by_key(said)
        headers = self._links.headers(node, "POST", f"/v1/{verb}")
        async with self._http.exchange(
            "POST", f"{node.url}/v1/{verb}", headers=headers, data={"keys": keys}
        ) as reply:
            if reply.status != 200:
                raise Broken(await error_text(reply))
            return _by_key(await reply.json())

    # ------------------------------------------------------------------ collect

    async def take_delivered(self, node: NodeRef, dispatches: Sequence[Dispatch]) -> list[CollectAnswer]:
        gone = CollectAnswer(CollectResult.FAILED, reason="they are not here any more")
        answers: list[CollectAnswer] = []
        for dispatch in dispatches:
            key = dispatch.attempt.key
            frames = self._delivered(node, key)
            came = {} if frames is None else await self._receive(Pieces([frames]), [dispatch], None)
            answers.append(came.get(key, gone))
        return answers

    async def collect(self, node: NodeRef, dispatches: Sequence[Dispatch]) -> list[CollectAnswer]:
        differing: set[str] = set()
        answers = await self._fetch(node, dispatches, differing)
        if again := [dispatch for dispatch in dispatches if dispatch.attempt.key in differing]:
            answers |= await self._fetch(node, again, None)
        return [answers[dispatch.attempt.key] for dispatch in dispatches]

    def _delivered(self, node: NodeRef, key: str) -> bytes | None:
        """What came of an attempt unasked; it is not kept any longer."""
        try:
            link = self._links.to(node)
        except NotSent:
            return None
        return None if link is None else link.take_results(key)

    async def _fetch(
        self, node: NodeRef, dispatches: Sequence[Dispatch], differing: set[str] | None
    ) -> dict[str, CollectAnswer]:
        """By key. Files of the input that are as they were received do not come over the wire, unless
        `differing` is None."""
        keys = [dispatch.attempt.key for dispatch in dispatches]
        asked = {"keys": keys, "sums": "crc32", "as_received": differing is not None}
        try:
            headers = self._links.headers(node, "POST", "/v1/collect")
            async with self._http.exchange(
                "POST", f"{node.url}/v1/collect", headers=headers, data=asked
            ) as reply:
                if reply.status == 200:
                    return await self._receive(reply, dispatches, differing)
                why = await error_text(reply)
        except (NotReached, Broken, Garbled, NotSent) as error:
            why = str(error)
        return dict.fromkeys(keys, CollectAnswer(CollectResult.FAILED, reason=why))

    async def _receive(
        self, body: AsyncIterable[bytes], dispatches: Sequence[Dispatch], differing: set[str] | None
    ) -> dict[str, CollectAnswer]:
        return await receive(body, dispatches, self._files, differing, self._result_limit)

    def open_results(self, node: NodeRef, attempt: Attempt) -> AbstractAsyncContextManager[RemoteStream]:
        return self._open(node, f"{attempt.key}/results", _ZIPPING)

    def open_log(
        self, node: NodeRef, attempt: Attempt, stream: str, offset: int, *, follow: bool
    ) -> AbstractAsyncContextManager[RemoteStream]:
        query = f"stream={stream}&offset={offset}" + ("&follow=1" if follow else "")
        # A script may be silent for days while its log is followed.
        patience = Deadlines(stall=None) if follow else Deadlines()
        return self._open(node, f"{attempt.key}/logs?{query}", patience)

    async def find_last_lines(self, node: NodeRef, attempt: Attempt, stream: str, lines: int) -> Tail:
        what = f"{attempt.key}/logs?stream={stream}&tail={lines}"
        async with self._open(node, what, Deadlines(), method="HEAD") as opened:
            told = [opened.headers.get(name.lower(), "") for name in (LOG_OFFSET, LOG_SIZE)]
        if not all(re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) for text in told):
            raise NodeUnreachable("the node does not tell where the last lines of a log begin")
        offset, size = map(int, told)
        return Tail(offset, size)

    def open_file(
        self, node: NodeRef, attempt: Attempt, path: str
    ) -> AbstractAsyncContextManager[RemoteStream]:
        return self._open(node, f"{attempt.key}/files/{quote(path)}", Deadlines())

    async def list_files(self, node: NodeRef, attempt: Attempt) -> Any:
        """The manifest of what is there now. Raises NotOnNode, Unreachable."""
        async with self._open(node, f"{attempt.key}/files", Deadlines()) as opened:
            data = bytearray()
            async for piece in opened.body:
                data += piece
                if len(data) > _LISTING:
                    raise NodeUnreachable("the node lists more files than can be told")
        try:
            return json.loads(data)
        except ValueError:
            raise NodeUnreachable("the node lists its files with something that is no JSON") from None

    @asynccontextmanager
    async def _open(
        self, node: NodeRef, what: str, patience: Deadlines, method: str = "GET"
    ) -> AsyncIterator[RemoteStream]:
        target = f"/v1/attempts/{what}"
        async with AsyncExitStack() as stack:
            try:
                headers = self._links.headers(node, method, target)
                reply = await stack.enter_async_context(
                    self._http.exchange(method, node.url + target, headers=headers, patience=patience)
                )
                if reply.status in (404, 410):
                    raise NotOnNode(await error_text(reply))
                if reply.status != 200:
                    raise NodeUnreachable(await error_text(reply))
            except (NotReached, Broken, NotSent) as error:
                raise NodeUnreachable(str(error)) from error
            yield RemoteStream(reply.headers, _Body(reply))


class _Body:
    """A reply's body, of whose trouble the reader need not know more than that it broke off."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._reply)
        except Broken as error:
            raise NodeUnreachable(str(error)) from error


def _is_small(files: Inputs) -> bool:
    """Whether all of it is in memory, as the ledger keeps it."""
    return all(isinstance(source, bytes) for _, source, _ in files)


def _listed(dispatch: Dispatch) -> dict[str, Any]:
    """What a node is told of an attempt."""
    listed = {
        "key": dispatch.attempt.key,
        "job": dispatch.job.id,
        "n": dispatch.attempt.n,
        "service": dispatch.job.service,
        "user": dispatch.job.user_id,
        "max_runtime_seconds": dispatch.job.max_runtime,
        "slot_wait_seconds": SLOT_WAIT,
    }
    if limits := limits_to_json(dispatch.job.limits):
        listed["limits"] = limits
    if request := request_to_json(dispatch.job.batch_request):
        listed["batch_request"] = request
    if dispatch.job.request_id:
        listed["request_id"] = dispatch.job.request_id
    return listed


def _submit_answers(data: Any, keys: Sequence[str]) -> dict[str, SubmitAnswer]:
    listed = _by_key(data)
    return {key: _parse_submitted(listed.get(key), key) for key in keys}


def _parse_submitted(item: Mapping[str, Any] | None, key: str) -> SubmitAnswer:
    if item is None:
        return SubmitAnswer(SubmitResult.DOUBT, "the node's answer leaves it out")
    try:
        view = _view(item, key)
    except Garbled as error:
        return SubmitAnswer(SubmitResult.DOUBT, str(error))
    result = _SUBMIT_RESULTS.get(str(item.get("result")), SubmitResult.DOUBT)
    reason = str(item.get("reason") or "")
    if result is SubmitResult.HAS and view is None:
        return SubmitAnswer(SubmitResult.DOUBT, "the node does not say how it is now")
    if result is SubmitResult.DOUBT:
        reason = f"the node answers {item.get('result')!r}"
    return SubmitAnswer(result, reason, view)


async def _parse_lookup(reply: Reply, key: str) -> AttemptLookup:
    data = await reply.json()
    if not isinstance(data, dict):
        raise Garbled(f"HTTP {reply.status} without a JSON object")
    if reply.status == 200:
        view = _view(data, key)
        if view is None:
            raise Garbled("the node's answer leaves the payload out")
        return AttemptLookup(LookupResult.FOUND, view)
    detail = str(data.get("detail") or data.get("title") or f"HTTP {reply.status}")
    # The code has to be there: a proxy's 404 says nothing about the attempt.
    return AttemptLookup(
        _LOOK_CODES.get((reply.status, str(data.get("code"))), LookupResult.UNKNOWN), reason=detail
    )


def _parse_look(
    item: Mapping[str, Any] | None, key: str, results: Mapping[str, LookupResult]
) -> AttemptLookup:
    if item is None:
        return AttemptLookup(LookupResult.UNKNOWN, reason="the node's answer leaves it out")
    try:
        view = _view(item, key)
    except Garbled as error:  # of this one: the others' answers count
        return AttemptLookup(LookupResult.UNKNOWN, reason=str(error))
    result = results.get(str(item.get("result")), LookupResult.UNKNOWN)
    if result is LookupResult.FOUND and view is not None:
        return AttemptLookup(LookupResult.FOUND, view)
    if result in (LookupResult.FOUND, LookupResult.UNKNOWN):
        return AttemptLookup(LookupResult.UNKNOWN, reason=f"the node answers {item.get('result')!r}")
    return AttemptLookup(result)


def _view(item: Mapping[str, Any], key: str) -> PayloadView | None:
    if item.get("payload") is None:
        return None
    view = view_from_json(item["payload"])
    if view.key != key:
        raise Garbled("the node answers with another attempt")
    return view


def _by_key(data: Any) -> dict[str, Mapping[str, Any]]:
    return {str(item.get("key")): item for item in items(data)}
