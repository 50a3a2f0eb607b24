"""What a server has told, and what was seen to happen: the truth that its disk is held against. It is written
down by those who were told, each with the time (wall clock, seconds since the epoch) when it had come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job was answered with 201. `files`: SHA-256 by name of what was uploaded."""

    at: float
    job: int
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Changed:
    """A change was told, with its number."""

    at: float
    job: int
    number: int
    status: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order to terminate was answered with 200."""

    at: float
    job: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Results of a Completed job were downloaded. `files`: SHA-256 by name of what they held."""

    at: float
    job: int
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Begun:
    """A job's script has begun on a node."""

    at: float
    job: int


@dataclass(frozen=True, slots=True)
class TakenThere:
    """A node has answered to one who asks it by the contract that it has a job, by this number."""

    at: float
    number: int
    serial: int


@dataclass(frozen=True, slots=True)
class EndedThere:
    """The results of such a job were fetched of the node."""

    at: float
    number: int


@dataclass(frozen=True, slots=True)
class StartedThere:
    """The script of a payload of a node has begun."""

    at: float
    key: str
    serial: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The script of a payload of a node has done its last."""

    at: float
    key: str
    serial: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """A node has been told to let go of a payload, as what it left is safe elsewhere: it writes that down,
    and deletes its files after that. A cut may take back the one and not the other, which costs nobody."""

    at: float
    key: str


Told: TypeAlias = (
    Accepted | Changed | Ordered | Taken | Begun | TakenThere | EndedThere | StartedThere | Finished | LetGo
)
