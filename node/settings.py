"""Everything that can be set about the node, in one frozen `NodeSettings`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from actors.config import kinds as kind
from actors.config.kinds import Setting, expecting
from actors.config.tables import Mistakes, Table, explain_pair, read_toml
from actors.domain.ids import is_key, is_node_name
from actors.domain.labels import is_label_name, is_label_value
from actors.process.log_settings import LOG_SETTINGS
from actors.wire.http.peers import is_server
from node.confinement.grants import NOTHING_GRANTED, Grants
from node.confinement.tier_settings import TIERS, TierName, UidRange, read_range
from node.script_settings import (
    GRANTS,
    NAMES_OF_VARIABLES,
    check_paths,
    patterns,
    read_script_env,
    read_services,
    take_grants,
    variables,
)
from node.slurm_settings import NOTHING_ASKED, SlurmOptions, read_options, take_options_of_services

DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`port` 0 takes any free one. `slots` None: whatever is sent runs at once. `on_stop`: what SIGTERM does
    to running payloads, `leave` or `kill`; `drain`: seconds for which it waits for them before. `grace`:
    seconds between SIGTERM and SIGKILL. `max_age`: seconds that results without a key are kept;
    `keep_uncollected`: those with one. `upload_limit`: bytes of a body. `log_limit`: bytes of each log of a
    job. `max_result_bytes`, `max_result_files`: what a job that left more is Failed for.
    `executor`: the tier in which scripts run, `auto` for the best that works, `slurm` to make batch jobs of
    them, with `slurm`, and `slurm_of` for some services; `uids`: of which each of them gets one of its own,
    None for those that work, if any.
    `pass_env`: names and globs of the node's variables that scripts see besides the usual ones. `job_env`:
    variables that every script sees. `grants`: what they may; `services`: for which that differs.
    `secrets`: files that no script sees, besides the data.

    `health_command`: run by /bin/sh again and again; while it fails, the node gets no jobs.

    `join`: the orchestrator that this node joins by itself, for `join_services`, saying its `labels`, the
    token of its `machine`, and `advertise`, the URL at which it is reached from there. `token` lets it in
    there, and `ca_file` says whose certificate it believes, instead of the usual authorities. With `dial_out`
    it listens nowhere and opens all connections itself, through the `proxy` if there is one.

    `name`: what people call this node; None: as its host.

    `idle_timeout`: seconds without a job after which it stops by itself; `lifetime`: seconds after which it
    is ended from outside, so that it is given no job that may take longer than what is left. 0: none.

    `tls_cert`, `tls_key`: this node speaks TLS, and shows these.

    `servers`: addresses, networks and names of hosts that are served by the published contract. One that does
    not join and has a `pair_token` pairs with who has it, and with nobody else; else the first pair with it
    that come, as many `orchestrators` as that. `pair_anew`: forget at the start which of them have.
    `metrics_token`: who shows it may read the node's numbers."""

    port: int = 9000
    host: str = "127.0.0.1"
    data: Path = Path("data")
    max_age: float = 864_000.0
    executor: TierName | Literal["slurm"] = "auto"
    uids: UidRange | None = None
    slots: int | None = None
    log_format: str = "text"
    log_level: str = "info"
    on_stop: str = "leave"
    drain: float = 0.0
    grace: float = 5.0
    tick: float = 0.5
    upload_limit: int = 1 << 30
    log_limit: int = 100 << 20
    max_result_bytes: int = 10 << 30
    max_result_files: int = 100_000
    pass_env: tuple[str, ...] | None = None
    job_env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    grants: Grants = NOTHING_GRANTED
    services: Mapping[str, Grants] = field(default_factory=lambda: MappingProxyType({}))
    health_command: str | None = None
    join: str | None = None
    join_services: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: str | None = None
    advertise: str | None = None
    name: str | None = None
    idle_timeout: float = 0.0
    lifetime: float = 0.0
    dial_out: bool = False
    proxy: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    pair_token: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    servers: tuple[str, ...] = ()
    orchestrators: int = 1
    pair_anew: bool = False
    secrets: tuple[Path, ...] = ()
    slurm: SlurmOptions = NOTHING_ASKED
    slurm_of: Mapping[str, SlurmOptions] = field(default_factory=lambda: MappingProxyType({}))
    keep_uncollected: float = 30 * DAY
    keep_tombstones: float = 30 * DAY

    def grants_of(self, service: str) -> Grants:
        return self.services.get(service, self.grants)

    def slurm_options(self, service: str) -> SlurmOptions:
        return self.slurm_of.get(service, self.slurm)


def load_settings(
    environ: Mapping[str, str],
    flags: Mapping[str, str | bool | None],
    config: Path | None = None,
    check_files: Callable[[NodeSettings], Iterable[str]] = lambda settings: (),
) -> NodeSettings:
    """The settings from the environment, a file, and flags that are keyed by field. A variable that is set to
    nothing counts as not set, a flag that is None was not given. `check_files` finds further mistakes, in
    what was set right. Raises `SettingsError`."""
    mistakes = Mistakes("{value} was given, expected {expected}")
    found = Table(SETTINGS, mistakes, also=("services", "slurm"))
    values, services, slurm = found.values, {}, {}
    values["data"] = Path("data").absolute()
    found.put_environment(environ, VARIABLES)
    script_env = read_script_env(environ, mistakes)
    if config is not None:
        told = read_toml(config, mistakes)
        services, slurm = told.pop("services", {}), told.pop("slurm", {})
        found.put_all(told, f"{config}: ")
    found.put_flags(flags)
    secrets = [(what, values[key]) for key, what in _SECRETS.items() if key in values]
    _read_token(found, mistakes)
    _read_metrics_token(found, mistakes)
    _check_joining(values, mistakes)
    values["job_env"] = MappingProxyType({**script_env, **values.get("job_env", {})})
    grants = take_grants(values)
    check_paths(grants, secrets, "", mistakes)
    options = read_options(slurm, NOTHING_ASKED, f"{config}: slurm", mistakes)
    slurm_of = take_options_of_services(services, options, f"{config}: services", mistakes)
    _check_executor(values, options, slurm_of, mistakes)
    of_services = read_services(services, grants, secrets, f"{config}: services", mistakes)
    hidden = tuple(path.absolute() for _, path in secrets if path != values["data"])
    made = NodeSettings(
        **values, grants=grants, services=of_services, secrets=hidden, slurm=options, slurm_of=slurm_of
    )
    for line in check_files(made):
        mistakes.add(line)
    mistakes.check()
    return made


def _check_executor(
    values: Mapping[str, Any], options: SlurmOptions, slurm_of: Mapping[str, SlurmOptions], mistakes: Mistakes
) -> None:
    if values.get("executor") == "slurm":
        if values.get("uids") is not None:
            mistakes.add("--uids: of no use with the executor slurm: batch jobs run as this account")
    elif slurm_of or options != NOTHING_ASKED:
        mistakes.add("[slurm]: of use with the executor slurm only: give --executor slurm, too")


def _read_token(found: Table, mistakes: Mistakes) -> None:
    """The token that stands in a file is as one that is given. A wrong one is not shown."""
    path = found.values.pop("token_file", None)
    if path is not None:
        try:
            found.values["token"] = Path(path).read_text(errors="replace").strip()
        except OSError as error:
            mistakes.add(f"--token-file: {path} cannot be read: {error.strerror}")
    token = found.values.get("token")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9_.~+/=-]{16,500}", token, re.ASCII):
        where = "ORCHESTRATOR_TOKEN" if path is None else f"--token-file: {path}"
        mistakes.add(f"{where}: is no token, as `orchestrator token create --role node` shows one")


def _read_metrics_token(found: Table, mistakes: Mistakes) -> None:
    path = found.values.pop("metrics_token_file", None)
    if path is None:
        return
    try:
        token = Path(path).read_text(errors="replace").strip()
    except OSError as error:
        mistakes.add(f"--metrics-token-file: {path} cannot be read: {error.strerror}")
        return
    if not re.fullmatch(r"[A-Za-z0-9_.~+/=-]{16,500}", token, re.ASCII):
        mistakes.add(f"--metrics-token-file: {path}: a token of 16 to 500 letters and digits was expected")
    found.values["metrics_token"] = token


def _check_joining(values: Mapping[str, Any], mistakes: Mistakes) -> None:
    if "join" in values and not values.get("join_services"):
        mistakes.add("--join: needs --join-services, the services that this node is for")
    if "dial_out" in values:
        for name in ("advertise", "tls_cert"):
            if name in values:
                mistakes.add(
                    f"--{name.replace('_', '-')}: of no use with --dial-out: this node is not reached"
                )
    if ("tls_cert" in values) is not ("tls_key" in values):
        mistakes.add(explain_pair(values, "--tls-cert", "--tls-key"))
    if "join" not in values:
        for name in ("join_services", "labels", "machine", "advertise", "dial_out", "proxy"):
            if name in values:
                mistakes.add(f"--{name.replace('_', '-')}: needs --join, the URL of the orchestrator to join")


# ------------------------------------------------------------------ what a value may be


def _host(value: object) -> str:
    if not isinstance(value, str) or not value or any(c.isspace() or c in "/?#@[]" for c in value):
        raise ValueError(value)
    return value


_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _size(value: object) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(i?B)?", text, re.ASCII) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(value)
    return int(match[1]) * _UNITS[match[2]]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(value)
    return value


def _url(value: object) -> str:
    found = kind.base_url(value)
    _resolvable(found)
    return found


def _proxy(value: object) -> str:
    found = kind.url(value)
    if not found.startswith("http://"):
        raise ValueError(value)
    return found


def _resolvable(url: str) -> None:
    """Raises ValueError for a host that no request could be sent to, as `a..b`: not later, in the middle of
    the node's life."""
    # Late: who is not to join needs no HTTP client.
    import httpx

    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as why:
        raise ValueError(url) from why
    host.encode("idna")  # As the resolver does; what it raises is a ValueError.


def _names(value: object) -> tuple[str, ...]:
    listed = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError(value)
    names = tuple(dict.fromkeys(each for each in listed if each))
    if not names or not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name, re.ASCII) for name in names):
        raise ValueError(value)
    return names


def _labels(value: object) -> Mapping[str, str]:
    """`gpu=a100,ssd`: a label without a value is there, and that is all."""
    if isinstance(value, str):
        value = {name: text for name, _, text in (each.partition("=") for each in value.split(","))}
    if not isinstance(value, dict):
        raise ValueError(value)
    for name, text in value.items():
        if not is_label_name(name) or not is_label_value(text):
            raise ValueError(value)
    return MappingProxyType(dict(value))


def _token(value: object) -> str:
    if not is_key(value):
        raise ValueError(value)
    return value


def _name(value: object) -> str:
    if not is_node_name(value):
        raise ValueError(value)
    return value


def _yes(value: object) -> bool:
    if value not in (True, "1"):
        raise ValueError(value)
    return True


def _servers(value: object) -> tuple[str, ...]:
    listed = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError(value)
    servers = tuple(dict.fromkeys(each for each in listed if each))
    if not servers or not all(map(is_server, servers)):
        raise ValueError(value)
    return servers


SETTINGS: Final[Mapping[str, Setting]] = {
    "port": Setting(
        kind.whole(0, 65535, "a port number from 0 to 65535 (0: any free one)"),
        "port to listen on; 0 takes any free one, which is printed",
    ),
    "host": Setting(
        expecting("an address or host name to listen on, as 127.0.0.1", _host), "address to listen on"
    ),
    "data": Setting(
        expecting("a directory", kind.path), "directory of everything that this node keeps; its identity too"
    ),
    "max_age": Setting(
        kind.seconds(0, "seconds that results are kept, as 864000", 1e11),
        "how long results are kept which came by the contract's `/submit`",
        unit="s",
    ),
    "executor": Setting(
        expecting("auto, bubblewrap, landlock, bash or slurm", kind.one_of("auto", *TIERS, "slurm")),
        "what scripts are kept from: `bubblewrap`, `landlock` or `bash`, see "
        "[below](#what-scripts-may); `auto`: the best that works here; `slurm`: they are batch "
        "jobs of a cluster, see [slurm.md](slurm.md)",
    ),
    "uids": Setting(
        expecting("first-last, as 2000000000-2000065535, from 1000 on; or 0 for none", read_range),
        "`FIRST-LAST`: the uids of which each job gets one of its own; `0`: jobs run as the node's user",
        default="what works",
    ),
    "slots": Setting(
        kind.whole(1, 1_000_000, "a whole number of jobs, 1 or more"),
        "jobs that run at once; without it whatever is sent runs at once",
        unit="jobs",
    ),
    **LOG_SETTINGS,
    "on_stop": Setting(
        expecting("leave or kill", kind.one_of("leave", "kill")),
        "what SIGTERM does to running jobs: `leave` (the next node on this directory finds them) or `kill`",
    ),
    "drain": Setting(
        kind.seconds(0, "seconds from 0 to 1000000", 1e6),
        "how long SIGTERM first waits: no new jobs come, those that are here end and their results "
        "are fetched. A second SIGTERM or Ctrl-C ends the wait",
        unit="s",
    ),
    "grace": Setting(
        kind.seconds(0, "seconds from 0 to 86400", 86_400),
        "time between SIGTERM and SIGKILL for a job that is to end",
        unit="s",
    ),
    "tick": Setting(
        kind.seconds(0.01, "seconds from 0.01 to 3600", 3600),
        "time between two looks for what no event told",
        unit="s",
    ),
    "upload_limit": Setting(
        expecting("bytes above 0, as 400M or 1073741824", _size),
        "largest body of one submit, such as `400M`",
        unit="bytes",
    ),
    "log_limit": Setting(
        expecting("bytes above 0, as 100M", _size),
        "what is kept of each of a job's two logs: the head and the last MiB, with a line between "
        "that says how much is missing; the script goes on",
        unit="bytes",
    ),
    "max_result_bytes": Setting(
        expecting("bytes above 0, as 10G", _size),
        "the files of one job that are collected, holes counted; a job that leaves more is Failed, "
        "with the largest file's name in its message and its logs kept",
        unit="bytes",
    ),
    "max_result_files": Setting(
        kind.whole(1, 1_000_000_000, "a whole number of files, 1 or more"),
        "the same for their number; a list of very many long names may end it earlier",
        unit="files",
    ),
    "pass_env": Setting(
        expecting(NAMES_OF_VARIABLES, patterns),
        "names and globs (`CUDA_VISIBLE_DEVICES LD_*`) of the variables that scripts see of the "
        "node's own, beside `PATH`, `TZ` and a locale of UTF-8; `*` for all of them, as 2.x did",
    ),
    "job_env": Setting(
        expecting('a table of NAME = "value", no name beginning with ORCHESTRATOR_', variables),
        'a table of `NAME = "value"` that is set for every script, as `SCRIPT_ENV_NAME` in the '
        "environment; the table wins",
    ),
    "health_command": Setting(
        expecting("a line of shell", _text),
        "shell that is run every 30 s; while it fails or takes longer than 15 s, the node gets no "
        "jobs, and `GET /v1/nodes` says why",
    ),
    "join": Setting(
        expecting("the URL of an orchestrator, as http://10.0.0.1:5000", _url),
        "URL of an orchestrator that this node joins by itself; see below",
    ),
    "join_services": Setting(
        expecting("names of services, a comma between", _names),
        "the services it is for there, a comma between",
    ),
    "labels": Setting(
        expecting("labels, as gpu=a100,ssd", _labels),
        "what it has that jobs may require, such as `gpu=a100,ssd`",
    ),
    "machine": Setting(
        expecting("the token of a machine, 32 hex digits", _token),
        "token of the machine it runs on, which scaling gives",
    ),
    "token": Setting(
        expecting("a token", kind.text),
        "the token by which it joins. There is no flag for it: an argument is seen by whoever "
        "lists processes",
    ),
    "pair_token": Setting(
        expecting("a token", kind.text),
        "a node that does not join pairs with whoever has this, and with nobody else; `up` gives "
        "its nodes one",
    ),
    "token_file": Setting(
        expecting("a file with a token in it", kind.path),
        "file with the token by which it joins (`orchestrator token create --role node`)",
    ),
    "metrics_token_file": Setting(
        expecting("a file with a token in it", kind.path),
        "file with the token by which the node's [numbers](operations.md#nodes) are read; without "
        "it nobody reads them",
    ),
    "ca_file": Setting(
        expecting("a file of certificates", kind.path),
        "file (PEM) with the authorities whose certificate it believes at the orchestrator that it joins",
        default="the usual ones",
    ),
    "tls_cert": Setting(
        expecting("a file with a certificate", kind.path),
        "speak TLS, and show this certificate (PEM, with its chain); see [security.md](security.md#tls)",
    ),
    "tls_key": Setting(expecting("a file with a key", kind.path), "its key (PEM)"),
    "servers": Setting(
        expecting("addresses, networks or names of hosts, commas between, as 10.0.0.0/8", _servers),
        "addresses, networks and names of hosts that are served by the published contract "
        "(`/submit`, `/retrieve`, `/kill`), and with which an open node pairs; see "
        "[security.md](security.md#nodes-prove-themselves)",
        default="the first that submits",
    ),
    "orchestrators": Setting(
        kind.whole(1, 64, "a whole number from 1 to 64"),
        "how many orchestrators may pair with a node that has no token, the first that come",
        unit="servers",
    ),
    "pair_anew": Setting(
        expecting("nothing, or 1", _yes),
        "forget at this start which orchestrators it was paired with, and who submitted first",
    ),
    "name": Setting(
        expecting("a name of at most 63 letters, digits and . _ -, as gpu-3", _name),
        "what people call this node, such as `gpu-3`: shown wherever a node is named; a second node "
        "of a name is shown with `-2`",
        default="the host's name",
    ),
    "idle_timeout": Setting(
        kind.seconds(0, "seconds, as 600 (0: never)", 1e9),
        "time without a job after which the node stops by itself (0: never)",
        unit="s",
    ),
    "lifetime": Setting(
        kind.seconds(0, "seconds, as 14400 (0: no end)", 1e9),
        "time after which the node is ended from outside, as on a cluster (0: no end): it is given "
        "no job whose service has a `max_runtime` above what is left, and within its last 10 "
        "minutes none that has no such limit",
        unit="s",
    ),
    "dial_out": Setting(
        expecting("nothing, or 1", _yes),
        "listen nowhere: this node opens all connections to the orchestrator that it joins; see "
        "[below](#nodes-that-cannot-be-reached)",
    ),
    "proxy": Setting(
        expecting("the URL of an HTTP proxy, as http://proxy:3128", _proxy),
        "URL of an HTTP proxy, `http://user:password@proxy:3128`, through which that one is "
        "reached, by CONNECT",
    ),
    "advertise": Setting(
        expecting("the URL at which this node is reached, as http://h:9000", _url),
        "URL at which the orchestrator reaches this node",
        default="where it listens",
    ),
    **GRANTS,
}
"""The keys of the file, and of flags."""

_SECRETS: Final = {
    "data": "the node's data",
    "token_file": "its token",
    "metrics_token_file": "the token by which its numbers are read",
    "tls_key": "its key",
}
"""What no script is to see."""

VARIABLES: Final = {
    "PORT": "port",
    "HOST": "host",
    "DATA_PATH": "data",
    "MAX_AGE": "max_age",
    "EXECUTOR": "executor",
    "UIDS": "uids",
    "PASS_ENV": "pass_env",
    "SERVERS": "servers",
    "READ": "read",
    "WRITE": "write",
    "NETWORK": "network",
    "CONTAINERS": "containers",
    "DEVICES": "devices",
    "ORCHESTRATOR_TOKEN": "token",
    "ORCHESTRATOR_PAIR_TOKEN": "pair_token",
    "ORCHESTRATOR_TOKEN_FILE": "token_file",
    "METRICS_TOKEN_FILE": "metrics_token_file",
    "LOG_FORMAT": "log_format",
    "LOG_LEVEL": "log_level",
}
"""What in the environment sets which key."""
