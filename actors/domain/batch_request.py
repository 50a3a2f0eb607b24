"""What a job asks of the batch system that runs it, beside its limits, and what its service lets it
ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

MOST_CPUS: Final = 100_000
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:,+=@/-]{0,199}", re.ASCII)
_CPUS: Final = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_GPUS: Final = re.compile(r"([A-Za-z0-9_.-]{1,64}:)?([1-9][0-9]{0,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What is empty, or 0, is as the node has it. `gpus`: a number, or a kind with it, as `a100:2`."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    cpus: int = 0
    gpus: str = ""


NOTHING_REQUESTED: Final = BatchRequest()


@dataclass(frozen=True, slots=True)
class BatchAllowance:
    """What an upload may ask for: nothing of what is empty, or 0. `max_gpus`: of each kind, or of any where
    no kind is named, the most."""

    partitions: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    max_cpus: int = 0
    max_gpus: tuple[str, ...] = ()

    def has(self, name: str, value: str | int) -> bool:
        """Whether a field of a request may be this."""
        if name == "cpus":
            return isinstance(value, int) and value <= self.max_cpus
        if name == "gpus":
            kind, _, number = str(value).rpartition(":")
            most = (one.rpartition(":") for one in self.max_gpus)
            return any(kind == of and int(number) <= int(limit) for of, _, limit in most)
        return value in self._listed(name)

    def describe(self, name: str) -> str:
        """What a field of a request may be, for people."""
        if name == "cpus":
            return f"at most {self.max_cpus}" if self.max_cpus else "none"
        if name == "gpus":
            return f"at most {' or '.join(self.max_gpus)}" if self.max_gpus else "none"
        return ", ".join(self._listed(name)) or "none"

    def _listed(self, name: str) -> Sequence[str]:
        return {"partition": self.partitions, "account": self.accounts, "qos": self.qos}[name]


NOTHING_ALLOWED: Final = BatchAllowance()


def parse_word(given: object) -> str:
    """The name of a partition, an account, or a quality of service. Raises ValueError for what is none."""
    if not isinstance(given, str) or not _WORD.fullmatch(given):
        raise ValueError(f"no name: {given!r:.50}")
    return given


def parse_gpus(given: object) -> str:
    """A number of GPUs, or a kind with it. Raises ValueError for what is neither."""
    text = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(text, str) or not _GPUS.fullmatch(text):
        raise ValueError(f"no number of GPUs: {given!r:.50}")
    return text


def _parse_cpus(given: object) -> int:
    text = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(text, str) or not _CPUS.fullmatch(text) or int(text) > MOST_CPUS:
        raise ValueError(f"no number of CPUs: {given!r:.50}")
    return int(text)


_KINDS: Final[Mapping[str, tuple[Callable[[object], str | int], str]]] = {
    "partition": (parse_word, "the name of a partition"),
    "account": (parse_word, "the name of an account"),
    "qos": (parse_word, "the name of a quality of service"),
    "cpus": (_parse_cpus, f"a whole number from 1 to {MOST_CPUS}"),
    "gpus": (parse_gpus, 'a number of GPUs, or a kind with it, as "a100:2",'),
}
REQUESTS: Final = tuple(_KINDS)
"""What each is called, in uploads as here."""


def parse_request(name: str, given: object) -> str | int:
    """What somebody wrote of one of `REQUESTS`. Raises ValueError with what was expected."""
    parse, expected = _KINDS[name]
    try:
        return parse(given)
    except ValueError:
        raise ValueError(expected) from None


def make_request(given: Mapping[str, Any]) -> BatchRequest:
    """Of values that `parse_request` has answered with."""
    return BatchRequest(**given) if given else NOTHING_REQUESTED


def request_to_json(request: BatchRequest) -> dict[str, str | int]:
    """What it asks for."""
    if request is NOTHING_REQUESTED:
        return {}
    given = ((field.name, getattr(request, field.name)) for field in fields(request))
    return {name: value for name, value in given if value}


def request_from_json(data: Any) -> BatchRequest:
    """What this version does not know is passed over. Raises ValueError for what is no such object."""
    if data == {}:
        return NOTHING_REQUESTED
    if not isinstance(data, dict):
        raise ValueError("no object of what is asked of a batch system")
    return make_request({name: parse_request(name, data[name]) for name in REQUESTS if name in data})
