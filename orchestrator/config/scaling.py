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

from actors.config import kinds as kind
from actors.config.kinds import Setting
from actors.config.tables import Mistakes, Table
from actors.domain.scaling import ScalingLimits

LOCAL: Final = "local"
PROVIDERS: Final = (LOCAL, "command", "ec2", "slurm")

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
class SlurmSettings:
    """`max_runtime`: seconds of an allocation. `backlog`: allocations that wait or boot at once, at most.
    `memory`, `gres`, `arguments`: as `sbatch` takes them. `setup`: lines of shell before the node starts.
    `node_command`: how the node is started, in shell. `log`: the file for what an allocation says, as of
    `--output`. `deadline`: seconds for each command."""

    max_runtime: float
    backlog: int = 2
    partition: str = ""
    account: str = ""
    qos: str = ""
    cpus: int = 0
    memory: str = ""
    gres: str = ""
    arguments: tuple[str, ...] = ()
    setup: str = ""
    node_command: str = "orchestrator node"
    log: str = "/dev/null"
    deadline: float = 60.0


MachineSettings = CommandSettings | Ec2Settings | SlurmSettings


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """How one service scales. `machines` has what its provider needs to know; None for `local`."""

    limits: ScalingLimits
    machines: MachineSettings | None = None

    @property
    def provider(self) -> str:
        match self.machines:
            case None:
                return LOCAL
            case CommandSettings():
                return "command"
            case Ec2Settings():
                return "ec2"
            case SlurmSettings():
                return "slurm"

    @property
    def elsewhere(self) -> bool:
        """Whether its machines are others than this one."""
        return self.machines is not None


def read_scaling(tables: Any, where: str, mistakes: Mistakes) -> Mapping[str, ScalingConfig]:
    """What the value of `scaling` in the file says, by service. A service whose table has a mistake is left
    out."""
    found: dict[str, ScalingConfig] = {}
    if not isinstance(tables, dict):
        mistakes.add_unexpected(where, tables, "tables [scaling.NAME]")
        return {}
    for name, table in tables.items():
        here = f"{where}.{name}"
        if not isinstance(table, dict):
            mistakes.add_unexpected(here, table, f"a table [scaling.{name}]")
            continue
        config = _Reading(name, here, mistakes).config(table)
        if config is not None:
            found[name] = config
    return found


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


def _sbatch_arguments(value: Any) -> tuple[str, ...]:
    ours = ("--job-name", "-J", "--time", "-t", "--parsable", "--requeue", "--signal", "--output", "-o")
    found = _texts(value)
    if any(not one.startswith("-") or one.partition("=")[0] in ours for one in found):
        raise kind.Wrong(f'options of sbatch, as ["--constraint=avx2"], other than {", ".join(ours)}')
    return found


def _script(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value:
        return value
    raise kind.Wrong("lines of shell")


PROVIDER: Final = Setting(
    kind.one_of(*PROVIDERS), "who makes the machines: `local`, `command`, `ec2` or `slurm`", default=LOCAL
)
_NODES: Final = kind.whole(0, 10_000, "a whole number of nodes from 0 to 10000")
_SECONDS: Final = kind.seconds(0.0, "a number of seconds, 0 or more")
_SOME_SECONDS: Final = kind.seconds(1.0, "a number of seconds, 1 or more")

LIMITS: Final[Mapping[str, Setting]] = {
    "min_nodes": Setting(_NODES, "machines that are kept when there is nothing to do", unit="machines"),
    "max_nodes": Setting(_NODES, "machines at most", unit="machines"),
    "slots_per_node": Setting(
        kind.whole(1, 10_000, "a whole number from 1 to 10000"), "jobs at once on each of them", unit="jobs"
    ),
    "target_wait": Setting(_SECONDS, "how long a job may wait before more machines are asked for", unit="s"),
    "idle_timeout": Setting(
        _SECONDS, "how long a node must have been idle, or not needed, before it may go", unit="s"
    ),
    "cooldown": Setting(_SECONDS, "time at least between the last growth and a shrinking", unit="s"),
    "boot_timeout": Setting(_SOME_SECONDS, "time within which a machine's node must have joined", unit="s"),
    "max_booting": Setting(
        _NODES, "machines that boot at once; 0: a quarter of the most nodes, at least 4", unit="machines"
    ),
    "max_failed_boots": Setting(
        kind.whole(1, 1_000, "a whole number from 1 to 1000"),
        "boots that fail in a row before a pause is made",
        unit="boots",
    ),
    "boot_backoff": Setting(_SOME_SECONDS, "the first pause; each further one is longer", unit="s"),
    "boot_backoff_most": Setting(_SOME_SECONDS, "the longest pause", unit="s"),
}
"""The keys of a table `[scaling.NAME]`, beside `provider` and the provider's own table."""

COMMAND: Final[Mapping[str, Setting]] = {
    "create": Setting(kind.text, "makes a machine and prints its id"),
    "list": Setting(
        kind.text,
        "prints a line `ID TOKEN SERVICE OWNER [ADDRESS]` for each machine; `OWNER` is the "
        "`ORCHESTRATOR_NAME` that it was made with",
    ),
    "terminate": Setting(kind.text, "ends the machines whose ids are its arguments"),
    "deadline": Setting(
        _SOME_SECONDS, "time for each of them; then it is killed with all that it started", unit="s"
    ),
}
"""The keys of a table `[scaling.NAME.command]`."""

EC2: Final[Mapping[str, Setting]] = {
    "image": Setting(kind.text, "id of an image that has job-orchestrator installed"),
    "instance_type": Setting(kind.text, 'the kind of machine, as "t3.small"'),
    "region": Setting(kind.text, 'the region, as "eu-central-1"', default="as boto3 finds it"),
    "endpoint_url": Setting(kind.url, "URL of another endpoint that speaks the API", default="EC2's own"),
    "subnet": Setting(kind.text, "id of a subnet", default="the default one"),
    "security_groups": Setting(
        _texts,
        "ids of security groups; they have to let the server reach `node_port`",
        default="the default one",
    ),
    "key_name": Setting(kind.text, "SSH key pair"),
    "tags": Setting(_tags, "more tags, a table of texts"),
    "setup": Setting(_script, "lines of shell that run before the node starts"),
    "node_command": Setting(kind.text, "how the node is started, in shell"),
    "node_port": Setting(
        kind.whole(1, 65535, "a port, a whole number from 1 to 65535"), "port that the node listens on"
    ),
    "options": Setting(_options, "more parameters of RunInstances, a table with their names there"),
    "deadline": Setting(_SOME_SECONDS, "time for each request", unit="s"),
    "page": Setting(
        kind.whole(5, 1000, "a whole number from 5 to 1000"),
        "reservations that one answer tells",
        unit="reservations",
    ),
}
"""The keys of a table `[scaling.NAME.ec2]`."""

SLURM: Final[Mapping[str, Setting]] = {
    "max_runtime": Setting(
        kind.seconds(300.0, "a number of seconds, 300 or more"),
        "the run time of an allocation, `--time`",
        unit="s",
    ),
    "backlog": Setting(
        kind.whole(1, 10_000, "a whole number from 1 to 10000"),
        "allocations that wait in Slurm, or boot, at once",
        unit="allocations",
    ),
    "partition": Setting(kind.text, "where they are submitted, `--partition`", default="Slurm's own"),
    "account": Setting(kind.text, "`--account`", default="Slurm's own"),
    "qos": Setting(kind.text, "`--qos`", default="Slurm's own"),
    "cpus": Setting(
        kind.whole(1, 10_000, "a whole number from 1 to 10000"),
        "`--cpus-per-task`",
        unit="CPUs",
        default="Slurm's own",
    ),
    "memory": Setting(kind.text, '`--mem`, as "32G"', default="Slurm's own"),
    "gres": Setting(kind.text, '`--gres`, as "gpu:1"'),
    "arguments": Setting(_sbatch_arguments, "whatever `sbatch` knows besides, a list"),
    "setup": Setting(_script, "lines of shell that run before the node starts"),
    "node_command": Setting(kind.text, "how the node is started, in shell"),
    "log": Setting(kind.text, "file for what an allocation says, as of `--output`"),
    "deadline": Setting(_SOME_SECONDS, "time for each command of Slurm's", unit="s"),
}
"""The keys of a table `[scaling.NAME.slurm]`."""

_TABLES: Final[Mapping[str, tuple[Mapping[str, Setting], type[MachineSettings]]]] = {
    "command": (COMMAND, CommandSettings),
    "ec2": (EC2, Ec2Settings),
    "slurm": (SLURM, SlurmSettings),
}


class _Reading:
    """One table `[scaling.NAME]`."""

    def __init__(self, service: str, where: str, mistakes: Mistakes) -> None:
        self._service = service
        self._where = where
        self._mistakes = mistakes

    def config(self, table: Mapping[str, Any]) -> ScalingConfig | None:
        """What it says; None after a mistake."""
        before = len(self._mistakes.lines)
        table = dict(table)
        keys = {**LIMITS, "provider": PROVIDER}
        found = Table(keys, self._mistakes, also=_TABLES)
        found.put("provider", table.pop("provider", LOCAL), f"{self._where}.provider")
        provider = found.values.pop("provider", "")
        tables = {name: table.pop(name) for name in _TABLES if name in table}
        found.put_all(table, f"{self._where}.")
        defaults = LOCAL_DEFAULTS if provider == LOCAL else {}
        limits = ScalingLimits(self._service, **{**defaults, **found.values})
        self._check(limits)
        for name in tables:
            if provider and name != provider:
                self._mistakes.add(f"{self._where}.{name}: is of no use with the provider {provider}")
        machines = self._machines(provider, tables.get(provider, {})) if provider in _TABLES else None
        if isinstance(machines, SlurmSettings):
            limits = dataclasses.replace(limits, max_booting=machines.backlog)
        return None if len(self._mistakes.lines) > before else ScalingConfig(limits, machines)

    def _check(self, limits: ScalingLimits) -> None:
        for low, high in (("min_nodes", "max_nodes"), ("boot_backoff", "boot_backoff_most")):
            least, most = getattr(limits, low), getattr(limits, high)
            if least > most:
                self._mistakes.add(f"{self._where}: {low} ({least}) is above {high} ({most})")

    def _machines(self, provider: str, table: Any) -> MachineSettings | None:
        keys, made = _TABLES[provider]
        where = f"{self._where}.{provider}"
        if not isinstance(table, dict):
            self._mistakes.add_unexpected(where, table, f"a table [scaling.{self._service}.{provider}]")
            return None
        if provider == "ec2" and importlib.util.find_spec("boto3") is None:
            self._mistakes.add(f"{where}: boto3 is missing; type: pip install 'job-orchestrator[ec2]'")
        found = Table(keys, self._mistakes)
        found.put_all(table, f"{where}.")
        needed = [one.name for one in dataclasses.fields(made) if one.default is one.default_factory]
        for name in needed:
            if name not in table:
                self._mistakes.add(f"{where}.{name}: is missing, and the provider {provider} needs it")
        return made(**found.values) if set(needed) <= set(found.values) else None
