"""Asking a contract-only node how an attempt is, and believing no more than it has shown.

"I could not ask" is never an end. An end counts when the node says it in so many words, with a zip that holds
the attempt's marker. A zip without any marker may still be its: whoever stores it has to find the attempt's
inputs in it. That an attempt is gone, that its id is somebody else's by now, or that it ended without files
or without its marker, counts only when it was heard again after a grace; and before a 404 is believed, a
different question is asked as well.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.domain.job import Attempt, End
from actors.domain.node import NodeRef, PayloadView
from actors.domain.status import Status
from orchestrator.http_client import Http
from orchestrator.nodes.addresses import partial_url
from orchestrator.nodes.contract_only.fetch import Absent, Fetched, Files, Nothing, OverLimit, Stranger, fetch
from orchestrator.nodes.contract_only.spool import Spool

GRACE: Final = 2.0
"""Seconds between the first sign that an attempt is gone and the one that is believed."""

PROOF: Final = 3.0
"""Seconds for finding out whose a number is. The files may be large, and an order waits."""

_WAITING: Final = frozenset({Status.QUEUED, Status.PROCESSING, Status.SUBMITTED, Status.PREPARED})
_RUNNING: Final = frozenset({Status.RUNNING, Status.LOCKED})
_BAD_ENDS: Final = frozenset({Status.FAILED, Status.INVALID, Status.KILLED})


@dataclass(frozen=True, slots=True)
class Ended:
    """`path` is the spooled zip; None when the node has no files of it. It is `proved` unless there was no
    marker in it."""

    end: End
    path: Path | None
    proved: bool = True


@dataclass(frozen=True, slots=True)
class Alive:
    """`status` is Prepared or Running."""

    status: Status


@dataclass(frozen=True, slots=True)
class Gone:
    """Certainly not on the node (any more)."""

    reason: str


Heard = Ended | Alive | Gone | Nothing


def view_of(heard: Heard, key: str) -> PayloadView | None:
    match heard:
        case Ended(end=end):
            return PayloadView(key, end.status, end)
        case Alive(status=status):
            return PayloadView(key, status)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class _Unproved:
    """An end of which nothing shows whose it is: told without files, with files that have no marker, or with
    more than are taken, which `over` says."""

    status: Status
    files: bool
    over: str = ""


_Sign = Absent | Stranger | _Unproved
_AGAIN: Final = Nothing("it is asked again after a grace")


class Asking:
    """What was heard of attempts on contract-only nodes. For one attempt there is one request at a time."""

    def __init__(self, http: Http, spool: Spool, grace: float = GRACE) -> None:
        self._http = http
        self._spool = spool
        self._grace = grace
        self._ends: dict[str, Ended] = {}
        self._signs: dict[str, tuple[_Sign, float]] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    async def forget(self, key: str) -> None:
        """The attempt is released: its spooled zip goes."""
        ended = self._ends.pop(key, None)
        self._signs.pop(key, None)
        self._locks.pop(key, None)
        if ended is not None and ended.path is not None:
            await self._spool.remove(ended.path)

    def known_end(self, key: str) -> Ended | None:
        return self._ends.get(key)

    async def ask(self, node: NodeRef, attempt: Attempt) -> Heard:
        """How it is now."""
        key = attempt.key
        async with self._locks[key]:
            if (known := self._ends.get(key)) is not None:
                return known
            if attempt.foreign_id is None:
                return Nothing("the node never told an id for it")
            sign, since = self._signs.get(key, (None, 0.0))
            if sign not in (None, Absent()) and trio.current_time() - since < self._grace:
                return _AGAIN  # its files may be large
            heard = await self._ask(node, attempt)
            if isinstance(heard, Ended):
                self._ends[key] = heard
            return heard

    async def files(self, node: NodeRef, attempt: Attempt) -> Fetched:
        """Its files as they are now, in a zip that is then the caller's."""
        async with self._locks[attempt.key]:
            return await self._partial(node, attempt)

    async def is_strangers(self, node: NodeRef, attempt: Attempt) -> bool:
        """Whether its number may be another's by what is there now: whose marker is not this attempt's, who
        has files and no marker. False where nothing could be found out."""
        with trio.move_on_after(PROOF):
            async with self._locks[attempt.key]:
                fetched = await self._partial(node, attempt, only_whose=True)
            if isinstance(fetched, Files):
                await self._spool.remove(fetched.path)
                return not fetched.proved
            return isinstance(fetched, Stranger)
        return False

    async def _ask(self, node: NodeRef, attempt: Attempt) -> Heard:
        fetched = await fetch(self._http, self._spool, node.download_url, attempt)
        match fetched:
            case Nothing():
                return fetched
            case Files():
                return await self._with_files(attempt, Status.COMPLETED, fetched)
            case OverLimit(reason=why):
                return await self._confirm(node, attempt, _Unproved(Status.FAILED, files=True, over=why))
            case Status() if fetched in _BAD_ENDS:
                return await self._bad_end(node, attempt, fetched)
            case Status() if fetched in _WAITING or fetched in _RUNNING:
                self._signs.pop(attempt.key, None)
                return Alive(Status.RUNNING if fetched in _RUNNING else Status.PREPARED)
            case Status() if fetched is not Status.CLEANED:
                return Nothing(f"the node answers with status {fetched}, without a zip")
            case Stranger():
                return await self._confirm(node, attempt, fetched)
            case _:
                return await self._confirm(node, attempt, Absent())

    async def _bad_end(self, node: NodeRef, attempt: Attempt, status: Status) -> Heard:
        fetched = await self._partial(node, attempt)
        match fetched:
            case Files():
                return await self._with_files(attempt, status, fetched)
            case OverLimit(reason=why):
                return await self._confirm(node, attempt, _Unproved(status, files=True, over=why))
            case Absent():
                return await self._confirm(node, attempt, _Unproved(status, files=False))
            case Stranger():
                return await self._confirm(node, attempt, fetched)
            case Nothing():
                return fetched
            case _:
                return Nothing("no zip came for its files")

    async def _with_files(self, attempt: Attempt, status: Status, files: Files) -> Heard:
        if not files.proved and not self._lasts(attempt.key, _Unproved(status, files=True)):
            await self._spool.remove(files.path)
            return _AGAIN
        self._signs.pop(attempt.key, None)
        return _to_ended(status, files)

    def _lasts(self, key: str, sign: _Sign) -> bool:
        """Whether `sign` was seen for long enough."""
        known, since = self._signs.get(key, (None, 0.0))
        if known != sign:
            self._signs[key] = (sign, trio.current_time())
            return False
        return trio.current_time() - since >= self._grace

    async def _confirm(self, node: NodeRef, attempt: Attempt, sign: _Sign) -> Heard:
        """What `sign` means, once it was seen for long enough."""
        if not self._lasts(attempt.key, sign):
            return _AGAIN
        match sign:
            case _Unproved(over=why) if why:
                return Ended(End(sign.status, why), None)
            case _Unproved(status=status):
                return _to_ended(status, None)
            case Stranger():
                return Gone("its id is somebody else's on the node by now")
        other = await self._partial(node, attempt)
        if isinstance(other, Files):
            await self._spool.remove(other.path)
        if isinstance(other, Absent | Stranger):
            return Gone("the node no longer knows its id")
        return Nothing("the node does not know its id, but may have its files")

    async def _partial(self, node: NodeRef, attempt: Attempt, *, only_whose: bool = False) -> Fetched:
        return await fetch(self._http, self._spool, partial_url(node), attempt, only_whose=only_whose)


def _to_ended(status: Status, files: Files | None) -> Ended:
    exit_code = files.contents.exit_code if files is not None else None
    match status:
        case Status.COMPLETED:
            message = "completed"
        case Status.KILLED:
            message = "killed on a node that cannot prove that nothing of it is left"
        case Status.INVALID:
            message = "found invalid by a node that does not say why"
        case _ if exit_code:
            message = f"exit code {exit_code}"
        case _:
            message = "failed on a node that does not say why"
    if files is None:
        return Ended(End(status, f"{message}; the node has no files of it"), None)
    end = End(status, message, exit_code=exit_code, size=files.contents.size)
    return Ended(end, files.path, files.proved)
