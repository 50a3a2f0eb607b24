"""A payload as a row of the table, the rows and tombstones that there are, and what is counted of them. It is
all in memory, and what changes here was written before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from actors.domain.job import End
from actors.domain.payload import Payload, PayloadMove, change_payload
from actors.domain.status import Status
from node.payloads.records import CANCEL, RELEASE, Tombstone


@dataclass(frozen=True, slots=True)
class Row:
    """`released`: its orchestrator has let go of it; only the Runner still sees it, until it has ended."""

    payload: Payload
    released: bool


class Rows:
    """By key, in the order of their last change."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._keys: dict[int, str] = {}
        self._held: Counter[str] = Counter()
        self._wanted = 0
        self._to_discard: dict[str, None] = {}

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> Row | None:
        return self._rows.get(key)

    def by_id(self, number: int) -> Row | None:
        """By the contract's number."""
        key = self._keys.get(number)
        return None if key is None else self._rows[key]

    def put(self, row: Row) -> None:
        payload = row.payload
        self.drop(payload.key)
        self._rows[payload.key] = row
        self._keys[payload.id] = payload.key
        self._count(row, 1)
        if row.released and payload.end is not None:
            self._to_discard[payload.key] = None

    def drop(self, key: str) -> None:
        if (row := self._rows.pop(key, None)) is not None:
            del self._keys[row.payload.id]
            if key in self._to_discard:
                del self._to_discard[key]
            self._count(row, -1)

    def _count(self, row: Row, by: int) -> None:
        payload = row.payload
        if payload.end is None:
            self._held[payload.owner] += by
        if payload.end is None or (payload.owner and not row.released):
            self._wanted += by

    def changed_after(self, sequence: int) -> list[Row]:
        """In the order of their changes."""
        found = []
        for row in reversed(self._rows.values()):
            if row.payload.sequence <= sequence:
                break
            found.append(row)
        return found[::-1]

    def to_discard(self) -> list[Row]:
        """Released and ended."""
        return [self._rows[key] for key in self._to_discard]

    @property
    def wanted(self) -> int:
        """Payloads that have not ended, or whose orchestrator has not let go of them."""
        return self._wanted

    @property
    def held(self) -> dict[str, int]:
        """For each owner, how many of its payloads have not ended."""
        return {owner: count for owner, count in self._held.items() if count}


class Tombstones:
    """Those that there are, the oldest first."""

    def __init__(self) -> None:
        # There are many, for a long time: each as small as it can be.
        self._cancelled: dict[int, float] = {}
        self._released: dict[int, float] = {}

    def put(self, stones: Iterable[Tombstone]) -> None:
        for stone in stones:
            key = int(stone.key, 16)
            self._cancelled.pop(key, None)
            (self._released if stone.kind == RELEASE else self._cancelled)[key] = stone.at

    def kind(self, key: str) -> str | None:
        number = int(key, 16)
        if number in self._released:
            return RELEASE
        return CANCEL if number in self._cancelled else None

    def drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._cancelled.pop(int(key, 16), None)
            self._released.pop(int(key, 16), None)

    def older_than(self, at: float, rows: Rows) -> Iterator[str]:
        """Those whose payload is gone. If the clock was set back, not before those that were made then."""
        for stones in (self._cancelled, self._released):
            for number, since in stones.items():
                if since >= at:
                    break
                if (key := f"{number:032x}") not in rows:
                    yield key


def apply_move(payload: Payload, move: PayloadMove, sequence: int = 0) -> Payload:
    """The payload after a move, which is the change of that number."""
    return change_payload(
        payload,
        status=move.target,
        pid=move.pid or payload.pid,
        started_at=payload.started_at if move.started_at is None else move.started_at,
        end=move.end,
        lost=move.lost or payload.lost,
        sequence=sequence,
    )


def lose(payload: Payload, why: str, now: float) -> Payload:
    """A payload of which nothing lives, and nothing is left that could be relied upon."""
    end = End(Status.FAILED, why, started_at=payload.started_at, ended_at=now)
    return change_payload(payload, status=Status.FAILED, end=end, lost=True)
