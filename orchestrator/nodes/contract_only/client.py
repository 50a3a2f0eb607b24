"""Commands to a node that knows only the contract.

It knows no keys: a submit whose answer is lost stays in doubt, and an order goes to a number that may be
somebody else's after a restart of the node. So before an order to kill goes out, the files under that number
are asked for their marker. Files without any marker are stored if the attempt's inputs are among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from actors.domain.job import Attempt, AttemptState
from actors.domain.node import NodeRef, PayloadView
from actors.domain.status import Status
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
from actors.wire.errors import BadArchive, BadRequest
from actors.wire.http.patience import SILENCE
from actors.wire.multipart.writer import DataPart, MultipartBody, file_part
from actors.wire.protocol.attempts import Garbled
from orchestrator.http_client import BodyUnreadable, Broken, Http, NoPort, NotReached, Scarce
from orchestrator.nodes.contract_only.fetch import (
    Absent,
    Files,
    Nothing,
    OverLimit,
    Stranger,
    payload_id,
    scan,
)
from orchestrator.nodes.contract_only.marker import MARKER
from orchestrator.nodes.contract_only.probe import Alive, Asking, Ended, Gone, Heard, view_of
from orchestrator.nodes.contract_only.spool import Spool, sizes
from orchestrator.nodes.job_files import JobFiles
from orchestrator.nodes.refusals import error_text, json_body, refusal, unreadable
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode, RemoteStream, from_file

_AT_ONCE: Final = 8
_NO_MARKER: Final = (
    f"there is no {MARKER} among its files, nor are all of its inputs there as they were sent, "
    "so nothing proves that they are the job's"
)


class ContractOnlyNodes:
    def __init__(self, http: Http, spool: Spool, asking: Asking, files: JobFiles) -> None:
        self._http = http
        self._spool = spool
        self._asking = asking
        self._files = files

    # ------------------------------------------------------------------ submit

    async def submit(self, node: NodeRef, dispatches: Sequence[Dispatch]) -> list[SubmitAnswer]:
        return await map_concurrently(partial(self._submit, node), dispatches, at_once=_AT_ONCE)

    async def _submit(self, node: NodeRef, dispatch: Dispatch) -> SubmitAnswer:
        key = dispatch.attempt.key
        try:
            files = await self._files.input_files(dispatch.job.storage_key, dispatch.job.size)
            names = Counter(path.rpartition("/")[2] for path, _, _ in files)
            names[MARKER] += 1
            twice = sorted(name for name, count in names.items() if count > 1)
            if twice:
                why = (
                    f"the node keeps files by their base names, and {', '.join(twice[:5])} would be one file"
                )
                return SubmitAnswer(SubmitResult.MALFORMED, why)
            parts = [file_part(path, path.rpartition("/")[2], source, size) for path, source, size in files]
            parts.append(DataPart(MARKER, MARKER, "application/octet-stream", key.encode()))
            async with self._http.exchange("POST", node.upload_url, body=MultipartBody(parts)) as reply:
                if not 200 <= reply.status < 300:
                    return refusal(reply.status, await json_body(reply))
                foreign_id = payload_id(await scan(reply))
        except (Scarce, NoPort) as error:
            return SubmitAnswer(SubmitResult.HELD, str(error))
        except (StorageError, BodyUnreadable) as error:
            return unreadable(error)
        except BadRequest as error:
            return SubmitAnswer(SubmitResult.MALFORMED, str(error))
        except (NotReached, LedgerError) as error:
            return SubmitAnswer(SubmitResult.NOT_SENT, str(error))
        except (Broken, Garbled) as error:
            return SubmitAnswer(SubmitResult.DOUBT, str(error))
        if foreign_id is None:
            return SubmitAnswer(SubmitResult.DOUBT, "the node's answer holds no id of 32 bits")
        return SubmitAnswer(SubmitResult.HAS, view=PayloadView(key, Status.PREPARED), foreign_id=foreign_id)

    # ------------------------------------------------------------------ look, cancel, release

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> list[AttemptLookup]:
        async def one(attempt: Attempt) -> AttemptLookup:
            return _look(await self._asking.ask(node, attempt), attempt.key)

        return await map_concurrently(one, attempts, at_once=_AT_ONCE)

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> list[AttemptLookup]:
        return await map_concurrently(partial(self._cancel, node), attempts, at_once=_AT_ONCE)

    async def _cancel(self, node: NodeRef, attempt: Attempt) -> AttemptLookup:
        if attempt.foreign_id is None:
            return AttemptLookup(LookupResult.UNKNOWN, reason="the node never told an id for it")
        known = self._asking.known_end(attempt.key)
        if known is not None:
            return _look(known, attempt.key)
        # Without any proof the order goes out: not to kill when it was ordered is worse than to be slow to
        # find out.
        if await self._asking.is_strangers(node, attempt):
            return await self._unless_alive(node, attempt, "its id may be somebody else's on the node by now")
        try:
            async with self._http.exchange("POST", f"{node.terminate_url}/{attempt.foreign_id}") as reply:
                if reply.status != 404 and not 200 <= reply.status < 300:
                    return AttemptLookup(LookupResult.UNKNOWN, reason=await error_text(reply))
            if reply.status == 404:
                return await self._unless_alive(node, attempt, "the node does not know its id")
        except (NotReached, Broken) as error:
            return AttemptLookup(LookupResult.UNKNOWN, reason=str(error))
        # Accepted is not dead: its end is told when the node tells it.
        return AttemptLookup(LookupResult.FOUND, PayloadView(attempt.key, Status.RUNNING))

    async def _unless_alive(self, node: NodeRef, attempt: Attempt, why: str) -> AttemptLookup:
        """What the usual questions say of an attempt that could not be killed: one sign is none."""
        heard = await self._asking.ask(node, attempt)
        return (
            AttemptLookup(LookupResult.UNKNOWN, reason=why)
            if isinstance(heard, Alive)
            else _look(heard, attempt.key)
        )

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> list[bool]:
        async def one(attempt: Attempt) -> bool:
            # Nothing there can be told to forget. But what was given up while the node was lost may run yet.
            if attempt.state is AttemptState.GIVEN_UP and attempt.foreign_id is not None:
                lookup = await self._cancel(node, attempt)
                if lookup.result is LookupResult.UNKNOWN:
                    return False
            await self._asking.forget(attempt.key)
            return True

        return await map_concurrently(one, attempts, at_once=_AT_ONCE)

    # ------------------------------------------------------------------ results

    async def collect(self, node: NodeRef, dispatches: Sequence[Dispatch]) -> list[CollectAnswer]:
        async def one(dispatch: Dispatch) -> CollectAnswer:
            heard = await self._asking.ask(node, dispatch.attempt)
            match heard:
                case Ended():
                    return await self._store(heard, dispatch)
                case Alive():
                    return CollectAnswer(CollectResult.NOT_ENDED)
                case Gone(reason=reason):
                    return CollectAnswer(CollectResult.GONE, reason=reason)
                case Nothing(reason=reason):
                    return CollectAnswer(CollectResult.FAILED, reason=reason)

        return await map_concurrently(one, dispatches, at_once=2)

    async def _store(self, ended: Ended, dispatch: Dispatch) -> CollectAnswer:
        try:
            if not ended.proved:
                there, sent = await self._inputs_in(ended, dispatch)
                if not there:
                    return CollectAnswer(CollectResult.GONE, reason="its id is somebody else's by now")
                if there < sent:
                    return CollectAnswer(CollectResult.IMPOSSIBLE, reason=_NO_MARKER)
            sink = self._files.receive_result(dispatch.job.storage_key, dispatch.attempt.key)
            try:
                results = await self._spool.store(ended.path, sink)
            finally:
                with trio.move_on_after(10, shield=True):
                    await sink.abort()
        except (BadArchive, StorageError, LedgerError, OSError) as error:
            if ended.path is not None and not await self._spool.is_whole(ended.path):
                await self._asking.forget(dispatch.attempt.key)
                return CollectAnswer(
                    CollectResult.FAILED, reason="its zip was damaged here, and is asked for again", ours=True
                )
            if isinstance(error, BadArchive):
                # It was read to its end before: the same archive would come again.
                return CollectAnswer(
                    CollectResult.IMPOSSIBLE, reason=f"the node's archive is unusable: {error}"
                )
            return CollectAnswer(
                CollectResult.FAILED, reason=f"the results cannot be stored: {error}", ours=True
            )
        return CollectAnswer(CollectResult.STORED, end=ended.end, results=results)

    async def _inputs_in(self, ended: Ended, dispatch: Dispatch) -> tuple[int, int]:
        """How many of the files that were sent are in its zip with as many bytes, and how many were sent.
        Raises StorageError, BadArchive, OSError."""
        assert ended.path is not None
        found = await sizes(ended.path)
        sent = await self._files.input_files(dispatch.job.storage_key)
        return sum(found.get(path.rpartition("/")[2]) == size for path, _, size in sent), len(sent)

    @asynccontextmanager
    async def open_results(self, node: NodeRef, attempt: Attempt) -> AsyncIterator[RemoteStream]:
        """The zip of its files as they are now. It is fetched whole before any of it is given on: only then
        its marker says whose it is."""
        known = self._asking.known_end(attempt.key)
        if known is not None and known.path is not None and known.proved:
            async with from_file(known.path, remove=False) as opened:
                yield opened
            return
        fetched = None
        with trio.move_on_after(SILENCE):
            fetched = await self._asking.files(node, attempt)
        match fetched:
            case Files(path=path) if fetched.proved:
                async with from_file(path, remove=True) as opened:
                    yield opened
            case Files(path=path):
                await self._spool.remove(path)
                raise NotOnNode(_NO_MARKER)
            case Absent() | Stranger():
                raise NotOnNode("the node has nothing of it")
            case Nothing(reason=reason) | OverLimit(reason=reason):
                raise NodeUnreachable(reason)
            case None:
                raise NodeUnreachable(
                    f"it packs the files before it sends any, which takes longer than {SILENCE:g} s; "
                    "they are here once the job has ended"
                )
            case _:
                raise NodeUnreachable("no zip came for its files")


def _look(heard: Heard, key: str) -> AttemptLookup:
    match heard:
        case Gone(reason=reason):
            return AttemptLookup(LookupResult.GONE, reason=reason)
        case Nothing(reason=reason):
            return AttemptLookup(LookupResult.UNKNOWN, reason=reason)
        case _:
            return AttemptLookup(LookupResult.FOUND, view_of(heard, key))
