"""Asking a foreign node how an attempt is, and believing no more than it has shown.

"I could not ask" is never an end. An end counts when the node says it in so many words, with a zip that holds
the attempt's marker. That an attempt is gone, that its id is somebody else's by now, or that it ended without
files, counts only when it was heard again after a grace; and before a 404 is believed, a different question
is asked as well.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.lifecycle import Status
from actors.model import Attempt, End, NodeRef, PayloadView
from orchestrator.addresses import partial_url
from orchestrator.foreign_fetch import Absent, Fetched, Files, Nothing, Stranger, fetch
from orchestrator.foreign_spool import Spool
from orchestrator.http import Http

GRACE: Final = 2.0
"""Seconds between the first sign that an attempt is gone and the one that is believed."""

_WAITING: Final = frozenset({Status.QUEUED, Status.PROCESSING, Status.SUBMITTED, Status.PREPARED})
_RUNNING: Final = frozenset({Status.RUNNING, Status.LOCKED})
_BAD_ENDS: Final = frozenset({Status.FAILED, Status.INVALID, Status.KILLED})


@dataclass(frozen=True, slots=True)
class Ended:
    """`path` is the spooled zip; None when the node has no files of it."""

    end: End
    path: Path | None


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
class _Bare:
    """A bad end, told without files that would prove whose it is."""

    status: Status


_Sign = Absent | Stranger | _Bare


class Asking:
    """What was heard of attempts on foreign nodes. For one attempt there is one request at a time."""

    def __init__(self, http: Http, spool: Spool, grace: float = GRACE) -> None:
        self._http = http
        self._spool = spool
        self._grace = grace
        self._ends: dict[str, Ended] = {}
        self._signs: dict[str, tuple[_Sign, float]] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    def forget(self, key: str) -> None:
        """The attempt is released: its spooled zip goes."""
        ended = self._ends.pop(key, None)
        if ended is not None and ended.path is not None:
            self._spool.remove(ended.path)
        self._signs.pop(key, None)
        self._locks.pop(key, None)

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
            if isinstance(sign, Stranger | _Bare) and trio.current_time() - since < self._grace:
                return Nothing("it is asked again after a grace")  # its files may be large
            heard = await self._ask(node, attempt)
            if isinstance(heard, Ended):
                self._ends[key] = heard
            return heard

    async def files(self, node: NodeRef, attempt: Attempt) -> Fetched:
        """Its files as they are now, in a zip that is then the caller's."""
        async with self._locks[attempt.key]:
            return await self._partial(node, attempt)

    async def _ask(self, node: NodeRef, attempt: Attempt) -> Heard:
        fetched = await fetch(self._http, self._spool, node.download_url, attempt)
        match fetched:
            case Nothing():
                return fetched
            case Files():
                self._signs.pop(attempt.key, None)
                return _ended(Status.COMPLETED, fetched)
            case Status() if fetched in _BAD_ENDS:
                return await self._bad_end(node, attempt, fetched)
            case Status() if fetched in _WAITING or fetched in _RUNNING:
                self._signs.pop(attempt.key, None)
                return Alive(Status.RUNNING if fetched in _RUNNING else Status.PREPARED)
            case Status() if fetched is not Status.CLEANED:
                return Nothing(f"the node answers with status {fetched}, without a zip")
            case Stranger():
                return await self._confirmed(node, attempt, fetched)
            case _:
                return await self._confirmed(node, attempt, Absent())

    async def _bad_end(self, node: NodeRef, attempt: Attempt, status: Status) -> Heard:
        fetched = await self._partial(node, attempt)
        match fetched:
            case Files():
                self._signs.pop(attempt.key, None)
                return _ended(status, fetched)
            case Absent():
                return await self._confirmed(node, attempt, _Bare(status))
            case Stranger():
                return await self._confirmed(node, attempt, fetched)
            case Nothing():
                return fetched
            case _:
                return Nothing("no zip came for its files")

    async def _confirmed(self, node: NodeRef, attempt: Attempt, sign: _Sign) -> Heard:
        """What `sign` means, once it was seen for long enough."""
        known, since = self._signs.get(attempt.key, (None, 0.0))
        if known != sign:
            self._signs[attempt.key] = (sign, trio.current_time())
            return Nothing("it is asked again after a grace")
        if trio.current_time() - since < self._grace:
            return Nothing("it is asked again after a grace")
        match sign:
            case _Bare(status=status):
                return _ended(status, None)
            case Stranger():
                return Gone("its id is somebody else's on the node by now")
        other = await self._partial(node, attempt)
        if isinstance(other, Files):
            self._spool.remove(other.path)
        if isinstance(other, Absent | Stranger):
            return Gone("the node no longer knows its id")
        return Nothing("the node does not know its id, but may have its files")

    async def _partial(self, node: NodeRef, attempt: Attempt) -> Fetched:
        return await fetch(self._http, self._spool, partial_url(node), attempt)


def _ended(status: Status, files: Files | None) -> Ended:
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
    return Ended(end, files.path)
