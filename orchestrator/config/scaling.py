"""The tables `[scaling.NAME]` of the settings file: how a service scales, and who makes its machines.

Every mistake is told, each in one line with where the value stands.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from actors.domain.scaling import ScalingLimits
from orchestrator.config import values as kind

LOCAL: Final = "local"
PROVIDERS: Final = (LOCAL, "command", "ec2")

LOCAL_DEFAULTS: Final[Mapping[str, Any]] = {
    "target_wait": 5.0,
    "idle_timeout": 30.0,
    "cooldown": 10.0,
    "boot_timeout": 60.0,
}
"""For nodes that are processes of this machine: they start in a second and cost nothing to start again."""


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """What to run. `deadline`: seconds for each of them."""

    create: str
    list: str
    terminate: str
    deadline: float = 60.0


OWNER_TAG: Final = "orchestrator"
SERVICE_TAG: Final = "orchestrator-service"
TOKEN_TAG: Final = "orchestrator-token"


@dataclass(frozen=True, slots=True)
class Ec2Settings:
    """`image` has job-orchestrator installed. `setup`: lines of shell before the node starts. `node_command`:
    how the node is started, in shell. `node_port`: where it listens. `options`: more parameters of
    RunInstances, by their names there. `deadline`: seconds for a call. `page`: reservations that one answer
    tells. Credentials come from where boto3 finds them: environment, files, the machine's role."""

    image: str
    instance_type: str
    region: str | None = None
    endpoint_url: str | None = None
    subnet: str | None = None
    security_groups: tuple[str, ...] = ()
    key_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    node_command: str = "orchestrator node"
    node_port: int = 9000
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = 30.0
    page: int = 1000


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """How one service scales. `machines` has what its provider needs to know; None for `local`."""

    limits: ScalingLimits
    machines: CommandSettings | Ec2Settings | None = None

    @property
    def provider(self) -> str:
        if self.machines is None:
            return LOCAL
        return "command" if isinstance(self.machines, CommandSettings) else "ec2"

    @property
    def elsewhere(self) -> bool:
        """Whether its machines are others than this one."""
        return self.machines is not None


def read_scaling(tables: Any, where: str) -> tuple[Mapping[str, ScalingConfig], list[str]]:
    """What the value of `scaling` in the file says, by service, and every mistake in it. A service whose
    table has one is left out."""
    found: dict[str, ScalingConfig] = {}
    mistakes: list[str] = []
    if not isinstance(tables, dict):
        return {}, [str(kind.unexpected(where, tables, "tables [scaling.NAME]"))]
    for name, table in tables.items():
        here = f"{where}.{name}"
        if not isinstance(table, dict):
            mistakes.append(str(kind.unexpected(here, table, f"a table [scaling.{name}]")))
            continue
        reading = _Reading(name, here)
        config = reading.config(table)
        if config is not None:
            found[name] = config
        mistakes += reading.mistakes
    return found, mistakes


def for_up(service: str, least: int, most: int, slots: int) -> ScalingConfig:
    """What `orchestrator up --autoscale LEAST:MOST --slots N` means."""
    limits = ScalingLimits(
        service, min_nodes=least, max_nodes=most, slots_per_node=slots, max_booting=most, **LOCAL_DEFAULTS
    )
    return ScalingConfig(limits)


def autoscale_range(value: str) -> tuple[int, int]:
    """The flag's `MIN:MAX`. Raises ValueError with what was expected."""
    match = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", value, re.ASCII)
    if match is None or not int(match[1]) <= int(match[2]) or int(match[2]) == 0:
        raise ValueError("MIN:MAX, two whole numbers of nodes such as 0:4, the second at least 1")
    return int(match[1]), int(match[2])


# ------------------------------------------------------------------ what there is to set


def _table_of_text(value: Any) -> Mapping[str, str]:
    if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
        return dict(value)
    raise kind.Wrong('a table of texts, as { team = "astro" }')


def _tags(value: Any) -> Mapping[str, str]:
    tags = _table_of_text(value)
    ours = sorted({OWNER_TAG, SERVICE_TAG, TOKEN_TAG} & set(tags))
    if ours:
        raise kind.Wrong(f"tags other than {', '.join(ours)}, by which the orchestrator knows its machines")
    return tags


def _options(value: Any) -> Mapping[str, Any]:
    ours = {"MinCount", "MaxCount", "ClientToken", "UserData", "TagSpecifications"}
    if isinstance(value, dict) and not ours & set(value):
        return dict(value)
    raise kind.Wrong(f"a table of parameters of RunInstances, other than {', '.join(sorted(ours))}")


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(one, str) and one for one in value):
        return tuple(value)
    raise kind.Wrong("a list of texts")


def _script(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value:
        return value
    raise kind.Wrong("lines of shell")


_NODES: Final = kind.whole(0, 10_000, "a whole number of nodes from 0 to 10000")
_SECONDS: Final = kind.seconds(0.0, "a number of seconds, 0 or more")
_SOME_SECONDS: Final = kind.seconds(1.0, "a number of seconds, 1 or more")

LIMITS: Final[Mapping[str, Any]] = {
    "min_nodes": _NODES,
    "max_nodes": _NODES,
    "slots_per_node": kind.whole(1, 10_000, "a whole number from 1 to 10000"),
    "target_wait": _SECONDS,
    "idle_timeout": _SECONDS,
    "cooldown": _SECONDS,
    "boot_timeout": _SOME_SECONDS,
    "max_booting": _NODES,
    "max_failed_boots": kind.whole(1, 1_000, "a whole number from 1 to 1000"),
    "boot_backoff": _SOME_SECONDS,
    "boot_backoff_most": _SOME_SECONDS,
}
"""The keys of a table `[scaling.NAME]`, beside `provider` and the provider's own table."""

COMMAND: Final[Mapping[str, Any]] = {
    "create": kind.text,
    "list": kind.text,
    "terminate": kind.text,
    "deadline": _SOME_SECONDS,
}
"""The keys of a table `[scaling.NAME.command]`."""

EC2: Final[Mapping[str, Any]] = {
    "image": kind.text,
    "instance_type": kind.text,
    "region": kind.text,
    "endpoint_url": kind.url,
    "subnet": kind.text,
    "security_groups": _texts,
    "key_name": kind.text,
    "tags": _tags,
    "setup": _script,
    "node_command": kind.text,
    "node_port": kind.whole(1, 65535, "a port, a whole number from 1 to 65535"),
    "options": _options,
    "deadline": _SOME_SECONDS,
    "page": kind.whole(5, 1000, "a whole number from 5 to 1000"),
}
"""The keys of a table `[scaling.NAME.ec2]`."""

_TABLES: Final[Mapping[str, tuple[Mapping[str, Any], type[CommandSettings] | type[Ec2Settings]]]] = {
    "command": (COMMAND, CommandSettings),
    "ec2": (EC2, Ec2Settings),
}


class _Reading:
    """One table `[scaling.NAME]`."""

    def __init__(self, service: str, where: str) -> None:
        self.mistakes: list[str] = []
        self._service = service
        self._where = where

    def config(self, table: Mapping[str, Any]) -> ScalingConfig | None:
        """What it says; None after a mistake."""
        table = dict(table)
        provider = self._provider(table.pop("provider", LOCAL))
        tables = {name: table.pop(name) for name in _TABLES if name in table}
        values = self._values(LIMITS, table, self._where, ("provider", *_TABLES))
        defaults = LOCAL_DEFAULTS if provider == LOCAL else {}
        limits = ScalingLimits(self._service, **{**defaults, **values})
        self._check(limits)
        for name in tables:
            if provider and name != provider:
                self.mistakes.append(f"{self._where}.{name}: is of no use with the provider {provider}")
        machines = self._machines(provider, tables.get(provider, {})) if provider in _TABLES else None
        return None if self.mistakes else ScalingConfig(limits, machines)

    def _provider(self, value: Any) -> str:
        try:
            return str(
                kind.taken(
                    {"provider": kind.one_of(*PROVIDERS)}, "provider", value, f"{self._where}.provider"
                )
            )
        except kind.Mistake as mistake:
            self.mistakes.append(str(mistake))
            return ""

    def _check(self, limits: ScalingLimits) -> None:
        for low, high in (("min_nodes", "max_nodes"), ("boot_backoff", "boot_backoff_most")):
            least, most = getattr(limits, low), getattr(limits, high)
            if least > most:
                self.mistakes.append(f"{self._where}: {low} ({least}) is above {high} ({most})")

    def _machines(self, provider: str, table: Any) -> CommandSettings | Ec2Settings | None:
        keys, made = _TABLES[provider]
        where = f"{self._where}.{provider}"
        if not isinstance(table, dict):
            self.mistakes.append(
                str(kind.unexpected(where, table, f"a table [scaling.{self._service}.{provider}]"))
            )
            return None
        if provider == "ec2" and importlib.util.find_spec("boto3") is None:
            self.mistakes.append(f"{where}: boto3 is missing; type: pip install 'job-orchestrator[ec2]'")
        values = self._values(keys, table, where)
        needed = [one.name for one in dataclasses.fields(made) if one.default is one.default_factory]
        for name in needed:
            if name not in table:
                self.mistakes.append(f"{where}.{name}: is missing, and the provider {provider} needs it")
        return made(**values) if not self.mistakes else None

    def _values(
        self, keys: Mapping[str, Any], table: Mapping[str, Any], where: str, also: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        found = {}
        for key, value in table.items():
            try:
                found[key] = kind.taken(keys, key, value, f"{where}.{key}", also)
            except kind.Mistake as mistake:
                self.mistakes.append(str(mistake))
        return found
