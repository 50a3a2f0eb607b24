"""What can be set about batch jobs: `[slurm]` in the node's file for those of all services, and
`[services.NAME.slurm]` for what differs for one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from actors.config import kinds as kind
from actors.config.kinds import Setting, expecting
from actors.config.tables import Mistakes, Table
from actors.domain.batch_request import MOST_CPUS, parse_gpus, parse_word


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """`time_limit` in seconds, `memory` in bytes, both 0 where Slurm's own count; `gpus` as `--gres` has them
    behind `gpu:`. `arguments` are handed to `sbatch` as they are, `python` runs what keeps the logs."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    time_limit: float = 0.0
    cpus: int = 0
    memory: int = 0
    gpus: str = ""
    arguments: tuple[str, ...] = ()
    python: str = ""


NOTHING_ASKED: Final = SlurmOptions()

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_OURS: Final = (
    *("array", "batch", "chdir", "dependency", "error", "export", "export-file", "get-user-env", "gid"),
    *("help", "hold", "input", "job-name", "no-kill", "no-requeue", "open-mode", "output", "parsable"),
    *(
        "quiet",
        "requeue",
        "signal",
        "test-only",
        "uid",
        "usage",
        "user",
        "verbose",
        "version",
        "wait",
        "wrap",
    ),
)
"""What `sbatch` is told by this node alone, or not at all: there it would break what is promised of a job."""


def _memory(value: object) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", text, re.ASCII) if isinstance(text, str) else None
    if match is None or int(match[1]) * _UNITS[match[2]] < 1 << 20:
        raise ValueError(value)
    return int(match[1]) * _UNITS[match[2]]


def _arguments(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(value)
    for each in value:
        match = re.fullmatch(r"--([a-z0-9-]+)(=[^\0\n]*)?", each) if isinstance(each, str) else None
        # `sbatch` takes an option that is cut short, too.
        if match is None or any(ours.startswith(match[1]) for ours in _OURS):
            raise ValueError(value)
    return tuple(value)


def _python(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[^\s\0]{1,100}", value):
        raise ValueError(value)
    return value


OPTIONS: Final[Mapping[str, Setting]] = {
    "partition": Setting(
        expecting("the name of a partition, as sinfo shows it", parse_word),
        "`--partition`",
        default="Slurm's own",
    ),
    "account": Setting(expecting("the name of an account", parse_word), "`--account`", default="Slurm's own"),
    "qos": Setting(
        expecting("the name of a quality of service", parse_word), "`--qos`", default="Slurm's own"
    ),
    "time_limit": Setting(
        kind.seconds(60, "seconds, 60 at least", 1e8),
        "`--time`. A service with a `max_runtime` asks for a minute more than that instead, if it "
        "is less: so that the end says what it was",
        unit="s",
        default="Slurm's own",
    ),
    "cpus": Setting(
        kind.whole(1, MOST_CPUS, "a whole number of CPUs, 1 or more"),
        "`--cpus-per-task`",
        unit="CPUs",
        default="Slurm's own",
    ),
    "memory": Setting(
        expecting("a size such as 512M or 4G, 1M at least", _memory),
        "`--mem`, as `512M` or `8G`. A job whose upload asks for less memory gets less",
        unit="bytes",
        default="Slurm's own",
    ),
    "gpus": Setting(
        expecting('a number of GPUs, or a kind with it, as "a100:2"', parse_gpus),
        '`--gres=gpu:`: a number, or a kind with it, as "a100:2"',
    ),
    "arguments": Setting(
        expecting(
            'a list of options of sbatch, as ["--constraint=avx2"], none of those that the node sets itself'
            " or that change what it counts on",
            _arguments,
        ),
        "whatever `sbatch` knows besides, each as `--name` or `--name=value`; not what the node "
        "sets itself (`--job-name`, `--output`, …) or what it could not keep its word with "
        "(`--array`, `--requeue`, `--dependency`, …)",
    ),
    "python": Setting(
        expecting("the absolute path of a Python 3.7 or newer, at most 100 characters", _python),
        "the Python 3.7 or newer that keeps a job's logs on the compute node",
        default="the node's own",
    ),
}
"""Each key is a field of `SlurmOptions`."""


def read_options(table: object, for_all: SlurmOptions, where: str, mistakes: Mistakes) -> SlurmOptions:
    """What stands in a table, and for the rest what holds for all."""
    if not isinstance(table, dict):
        mistakes.add_unexpected(where, table, f"a table [{where.rpartition(': ')[2]}]")
        return for_all
    found = Table(OPTIONS, mistakes)
    found.put_all(table, f"{where}.")
    return replace(for_all, **found.values)


def take_options_of_services(
    services: object, for_all: SlurmOptions, where: str, mistakes: Mistakes
) -> Mapping[str, SlurmOptions]:
    """Those of each service that has its own; they are taken out of its table."""
    found: dict[str, Any] = {}
    for name, table in services.items() if isinstance(services, dict) else ():
        if isinstance(table, dict) and "slurm" in table:
            found[name] = read_options(table.pop("slurm"), for_all, f"{where}.{name}.slurm", mistakes)
    return MappingProxyType(found)
