"""What the executor asks of a batch system: submit, list, look one up, cancel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from node.errors import NodeError


class OutOfReach(NodeError):
    """The batch system could not be asked, or did not answer: what was asked for may have been done."""


class Refused(NodeError):
    """The batch system has said no; nothing was done."""


class Phase(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    """Also while it ends, or stands still, or does what nobody has heard of."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class BatchId:
    """`cluster` is empty where there is only one."""

    number: str
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What the batch system says of one job. `state` and `reason` are its own words; `submitted` in seconds
    since the epoch, 0 where it is not told; `host` where it runs."""

    id: BatchId
    name: str
    phase: Phase
    state: str
    reason: str = ""
    submitted: int = 0
    host: str = ""


class BatchSystem(Protocol):
    """All raise `OutOfReach`. Jobs of other users are never told of."""

    async def submit(
        self, name: str, program: str, arguments: Sequence[str], options: Sequence[str]
    ) -> BatchId:
        """Submit a job of that name. `options` in the batch system's own words. Raises `Refused`."""
        ...

    async def list(self, clusters: Collection[str]) -> Mapping[str, BatchJob]:
        """All of this user's jobs whose names are ours, by name, in one question; those too that have ended
        lately. What cannot be read is left out, so that absence says nothing for sure."""
        ...

    async def find(self, job: BatchId, name: str) -> BatchJob | None:
        """The job of this id and name, by another question than `list` asks; None: there is surely none."""
        ...

    async def cancel(self, job: BatchId, name: str) -> None:
        """End the job of this id and name, whatever it does. Harmless when it has ended, and to whoever has
        its id by then."""
        ...

    async def stop(self, job: BatchId, name: str) -> None:
        """End it if it waits; otherwise have its program end it by SIGTERM."""
        ...
