"""One GET of a payload or its files on a contract-only node, and what came: a zip, a status, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.domain.ids import MAX_ID
from actors.domain.job import Attempt
from actors.domain.status import Status
from actors.wire.errors import BadArchive, TooLarge
from actors.wire.protocol.attempts import Garbled
from orchestrator.http_client import Broken, Deadlines, Http, NotReached, Reply
from orchestrator.nodes.contract_only.json_scan import TopLevel
from orchestrator.nodes.contract_only.marker import UntilMarker
from orchestrator.nodes.contract_only.spool import Contents, Spool
from orchestrator.nodes.refusals import error_text

_ZIPPING: Final = Deadlines(connect=5.0, head=None, stall=30.0)
_DRAINED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Files:
    """A zip with this attempt's marker or with none at all, spooled at `path`. Who asked for it owns it."""

    path: Path
    contents: Contents

    @property
    def proved(self) -> bool:
        """Whether it is certainly the attempt's. A script that removes what begins with a dot removes the
        marker too."""
        return self.contents.marker is not None


@dataclass(frozen=True, slots=True)
class Ours:
    """A zip with this attempt's marker, of which no more was read."""


@dataclass(frozen=True, slots=True)
class Absent:
    """404: the node does not know the id."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A sound zip with another's marker: the id is somebody else's by now."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """No answer that means anything."""

    reason: str


@dataclass(frozen=True, slots=True)
class OverLimit:
    """A zip of more bytes than are taken, which may never end. Whose it is was not found out."""

    reason: str


Fetched = Files | Ours | Status | Absent | Stranger | OverLimit | Nothing


async def fetch(http: Http, spool: Spool, url: str, attempt: Attempt, *, only_whose: bool = False) -> Fetched:
    """Contract-only nodes zip before they answer: the first byte has no deadline. With `only_whose` a zip is
    read no further than to this attempt's marker."""
    try:
        async with http.exchange("GET", f"{url}/{attempt.foreign_id}", patience=_ZIPPING) as reply:
            if reply.status == 404:
                return Absent()
            if reply.status != 200:
                return Nothing(await error_text(reply))
            first = await _first(reply)
            if first.startswith(b"PK"):
                return await _spool(spool, first, reply, attempt.key, only_whose)
            found = await scan(reply, first)
    except TooLarge as error:
        return OverLimit(error.detail)
    except (NotReached, Broken, Garbled, BadArchive) as error:
        return Nothing(str(error))
    except OSError as error:
        return Nothing(f"the zip cannot be kept here: {error}")
    if payload_id(found) != attempt.foreign_id:
        return Nothing("the node answers with another payload, or with none")
    try:
        return Status(str(found.get("status")))
    except ValueError:
        return Nothing(f"the node answers with status {found.get('status')!r}")


async def scan(reply: Reply, first: bytes = b"") -> dict[str, Any]:
    """The `id` and `status` of a Payload. Raises Garbled, Broken (only when they have not come yet).

    A small rest is read, so that the connection can be used again; a large one is not.
    """
    scanner = TopLevel(("id", "status"))
    scanner.feed(first)
    rest = 0
    try:
        async for piece in reply:
            if not scanner.satisfied:
                scanner.feed(piece)
            elif (rest := rest + len(piece)) > _DRAINED:
                break
    except Broken:
        if payload_id(scanner.found) is None:
            raise
    return scanner.found


def payload_id(found: dict[str, Any]) -> int | None:
    """The id, if there is one and it fits 32 bits."""
    value = found.get("id")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID:
        return value
    return None


async def _first(reply: Reply) -> bytes:
    """Enough to tell a zip from JSON."""
    first = b""
    async for piece in reply:
        first += piece
        if len(first) >= 2:
            break
    return first


async def _spool(
    spool: Spool, first: bytes, reply: Reply, key: str, only_whose: bool
) -> Files | Ours | Stranger:
    pieces = UntilMarker(first, reply, key) if only_whose else reply
    path = await spool.write(first, pieces)
    kept = False
    try:
        if isinstance(pieces, UntilMarker) and pieces.found:
            return Ours()
        contents = await spool.inspect(path)
        kept = contents.marker in (key, None)
    finally:
        if not kept:
            await spool.remove(path)  # noqa: ASYNC102  # it shields itself, with a timeout
    return Files(path, contents) if kept else Stranger()
