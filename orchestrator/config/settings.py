"""Everything that can be set about the server, in one frozen `Settings`. Values are read here and nowhere
else."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from actors.config import kinds as kind
from actors.config.kinds import Setting
from actors.config.tables import Mistakes, Table, explain_pair, read_toml
from actors.domain.batch_request import MOST_CPUS, BatchAllowance
from actors.domain.job import MOST_PRIORITY
from actors.domain.limits import LIMITS, UNLIMITED, JobLimits, expected, parse_limit
from actors.domain.node import NodeAddress
from actors.domain.service import ServiceLimits
from actors.process.log_settings import LOG_SETTINGS
from orchestrator.access.limits import Limits
from orchestrator.callbacks.allowed_hosts import CallbackHosts, HostRule, Network
from orchestrator.callbacks.keys import SECRET_FILE
from orchestrator.config import values
from orchestrator.config.scaling import ScalingConfig, read_scaling

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings. Paths are absolute. `warnings` are lines for the operator that stop nothing.

    `upload_limit` is the whole request body in bytes. A job with results of more than `result_limit` bytes
    is Failed, on a node that knows only the contract one of more than `contract_result_limit`. Uploads are
    refused while less than `keep_free_disk` bytes would stay free. Inputs, and results, of at most
    `small_files` bytes are kept in the ledger.
    `tls_cert`, `tls_key`: the server speaks TLS, and shows these. `node_ca_file` says whose certificates of
    nodes are believed, instead of the usual authorities'. `join_url` is where nodes on other machines reach
    this server, "" if not told.
    `public_url`: where people reach it; of web pages only those of these origins may give orders.
    `tokens_file` declares tokens. `open_local`: whether programs of the server's own uid on this machine need
    none ("auto": unless scripts could reach it so); `open_contract`: "auto" leaves the published contract
    open to everybody as long as all services come from variables, as 2.x has them (`as_2x`), and no portal
    token was ever made. Pages of `allowed_origins` may call the API. From `trusted_proxies`, and from nobody
    else, `trusted_user_header` says who asks: a user's number, or one of the `trusted_operators`.
    Nodes in the settings pair by `node_token`, if there is one.
    Callbacks go to `callback_hosts` alone, and are off without any; of these, `callback_private` may be at
    private addresses. `callback_ca_file` has the certificates of the authorities that they are believed by,
    instead of the usual ones.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    db_path: Path = Path("db.sqlite")
    data_path: Path = Path("data")
    max_age: float = 864_000.0
    keep_rows: float = 7_776_000
    audit_keep: float = 34_560_000
    upload_limit: int = 400 * MIB
    result_limit: int = 1 << 40
    contract_result_limit: int = 10 << 30
    max_queued: int = 0
    max_queued_per_user: int = 0
    max_bytes_per_user: int = 0
    max_uploads: int = 0
    token_rate: float = 0.0
    address_rate: float = 0.0
    log_format: str = "text"
    log_level: str = "info"
    access_log: str = "0"
    keep_free_disk: int = 0
    small_files: int = 64 << 10
    node_lost_after: float = 60.0
    node_back_within: float = 3600.0
    tick_seconds: float = 0.5
    tls_cert: Path | None = None
    tls_key: Path | None = None
    node_ca_file: Path | None = None
    join_url: str = ""
    public_url: tuple[str, ...] = ()
    tokens_file: Path | None = None
    open_local: str = "auto"
    open_contract: str = "0"
    allowed_origins: tuple[str, ...] = ()
    trusted_user_header: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    trusted_operators: tuple[str, ...] = ()
    callback_hosts: tuple[HostRule, ...] = ()
    callback_private: tuple[Network, ...] = ()
    callback_secret_file: Path = Path("data/callback.secret")
    callback_ca_file: Path | None = None
    services: Mapping[str, ServiceLimits] = field(default_factory=lambda: MappingProxyType({}))
    scaling: Mapping[str, ScalingConfig] = field(default_factory=lambda: MappingProxyType({}))
    node_token: str = field(default="", repr=False)
    as_2x: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_queued,
            self.max_queued_per_user,
            self.max_bytes_per_user,
            self.max_uploads,
            self.token_rate,
            self.address_rate,
        )


FileCheck = Callable[[Settings], Iterable[str]]
"""Finds what is wrong with the files that settings name, a line for each."""


def check_nothing(_: Settings) -> Iterable[str]:
    """Whoever reads a file tells what is wrong with it."""
    return ()


def load(
    environ: Mapping[str, str],
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    named: Collection[str] = (),
    check_files: FileCheck = check_nothing,
) -> Settings:
    """Settings from the three sources. A flag that is None was not given. `named`: paths that one of the
    sources has to name, instead of what is taken else. `check_files` finds further mistakes, in what was set
    right.

    Raises SettingsError.
    """
    found = _Found()
    found.take_environment(environ)
    if config is not None:
        found.take_file(config)
    found.server.put_flags(flags or {})
    found.require(named)
    return found.settings(check_files)


# ------------------------------------------------------------------ what there is to set


_POSITIVE: Final = kind.whole(1, 1_000_000, "a whole number from 1 to 1000000")
_BYTES: Final = kind.whole(0, 1 << 60, "a whole number of bytes")
_SIZE: Final = kind.expecting(
    "a number of bytes, 1 or more, or a size such as 512M or 4G", partial(parse_limit, "disk")
)
_COUNT: Final = kind.whole(0, 1 << 60, "a whole number (0: no limit)")
_RATE: Final = kind.seconds(0.0, "a number of requests a second (0: no limit)", 1e6)

SERVER: Final[Mapping[str, Setting]] = {
    "host": Setting(kind.text, "address to listen on; 0.0.0.0 for all of them (the images set it)"),
    "port": Setting(
        kind.whole(0, 65535, "a port, a whole number from 0 to 65535"),
        "port to listen on; 0 takes any free one, which is printed",
    ),
    "db_path": Setting(kind.path, "the ledger, an SQLite file on a local disk"),
    "data_path": Setting(kind.path, "directory of the jobs' inputs and results"),
    "max_age": Setting(
        kind.seconds(0.0, "a number of seconds, 0 or more"),
        "how long an ended job's files are kept",
        unit="s",
        live=True,
    ),
    "keep_rows": Setting(
        kind.seconds(0.0, "a number of seconds, 0 or more (0: for ever)"),
        "how long after a job's end the ledger forgets the job too, once its files are gone (0: "
        "never). Sums of usage stay; its id is not given again, its idempotency key may be. The "
        "ledger takes about 2 kB a job ([a year of it](operations.md#a-year-of-jobs))",
        unit="s",
        live=True,
    ),
    "audit_keep": Setting(
        kind.seconds(0.0, "a number of seconds, 0 or more (0: for ever)"),
        "how long it is kept [who did what](api.md#who-did-what) (0: for ever)",
        unit="s",
        live=True,
    ),
    "upload_limit": Setting(
        _SIZE,
        "largest upload, the whole request; more is answered 413",
        unit="bytes",
    ),
    "result_limit": Setting(
        _SIZE,
        "all files together that a job may leave on one of our nodes; a job that has more is Failed, and "
        "its message says so. What a node sends is unpacked to be checked, so this bounds what one that "
        "lies can cost. The nodes have [limits of their own](#the-node), which are lower",
        unit="bytes",
    ),
    "contract_result_limit": Setting(
        _SIZE,
        "the largest zip of results that is taken from a node that knows only the contract, and "
        "all files in it together; a job that has more is Failed, and its message says so",
        unit="bytes",
    ),
    "keep_free_disk": Setting(
        _BYTES,
        "what an upload must leave free on the disk of `data_path`; else it is answered 507",
        unit="bytes",
    ),
    "max_queued": Setting(
        _COUNT,
        "jobs of a service that may wait (0: any number). One more is answered 429, as over each "
        "of these limits, with `Retry-After` and the limit's name",
        unit="jobs",
        live=True,
    ),
    "max_queued_per_user": Setting(
        _COUNT, "jobs of a user that may wait, for all services together (0: any number)", "jobs", live=True
    ),
    "max_bytes_per_user": Setting(
        _BYTES,
        "what may be stored of a user's jobs, inputs and results (0: no limit): an upload above it "
        "is refused, results are kept all the same",
        unit="bytes",
        live=True,
    ),
    "max_uploads": Setting(
        _COUNT, "uploads that may be under way at once (0: any number)", unit="uploads", live=True
    ),
    "token_rate": Setting(
        _RATE,
        "requests by a token, or by a person whom a proxy has signed on (0: no limit); those of 10 "
        "s may come at once",
        unit="requests/s",
        live=True,
    ),
    "address_rate": Setting(
        _RATE,
        "the same by an address, of what brings no token, or one that does not hold (0: no limit). "
        "What a trusted proxy passes on is not counted, nor what `OPEN_CONTRACT` lets in, nor "
        "programs of this machine that need no token",
        unit="requests/s",
        live=True,
    ),
    **LOG_SETTINGS,
    "access_log": Setting(
        kind.one_of("0", "1"),
        "`1`: a line for each request, with who asked, the answer and its time",
        default="none",
        live=True,
    ),
    "small_files": Setting(
        kind.whole(0, MIB, "a whole number of bytes, at most 1048576"),
        "the input of a job, and its results, are kept in the ledger if they have at most so much "
        "together, and in `data_path` if they have more; 0: always in `data_path`",
        unit="bytes",
    ),
    "node_lost_after": Setting(
        kind.seconds(1.0, "a number of seconds, 1 or more"),
        "silence after which a node is lost and its jobs go elsewhere",
        unit="s",
    ),
    "node_back_within": Setting(
        kind.seconds(1.0, "a number of seconds, 1 or more"),
        "how long jobs are held for a node that was stopped on purpose with jobs on it, and said "
        "that it will be back; then it is lost too",
        unit="s",
    ),
    "tls_cert": Setting(
        kind.path,
        "certificate (PEM, with its chain) that the server shows: it speaks [TLS](security.md#tls) then",
    ),
    "tls_key": Setting(kind.path, "its key (PEM)"),
    "node_ca_file": Setting(
        kind.path,
        "certificates (PEM) of the authorities that nodes are believed by, instead of the usual ones",
    ),
    "join_url": Setting(
        kind.url,
        "where nodes on other machines reach this server, as http://10.0.0.1:5000; scaling "
        "elsewhere needs it",
    ),
    "public_url": Setting(
        values.own_urls,
        "where people and nodes reach this server by a name, as https://jobs.example.org (several: "
        "a comma between, a list in the file). Web pages of these origins may give orders, and "
        "these host names are answered; others only on the contract's routes, `/health` and "
        "`/ready`. Loopback and the server's own addresses need no mention",
    ),
    "tick_seconds": Setting(
        kind.seconds(0.01, "a number of seconds, 0.01 or more"),
        "how often is looked for what no message told",
        unit="s",
    ),
    "tokens_file": Setting(kind.path, "a file that [declares tokens](security.md#tokens) by their hashes"),
    "open_local": Setting(
        kind.one_of("auto", "0", "1"),
        "whether programs of the server's own account need [no "
        "token](security.md#what-is-open-without-a-token) on its machine: `1`, `0`, or `auto`: "
        "only while no jobs run there",
    ),
    "open_contract": Setting(
        kind.one_of("auto", "0"),
        "`auto` (as the image sets it) leaves the routes of 2.x open to everybody while all "
        "services come from `SERVICE_…` variables and no token of a portal was ever made",
    ),
    "allowed_origins": Setting(
        values.origins,
        "origins of web pages that may call the API from a browser, with a token (CORS), as "
        "https://portal.example.org",
    ),
    "trusted_user_header": Setting(
        values.header,
        "header in which `trusted_proxies`, and nobody else, say who asks: the number of a user, "
        "or one of the operators",
    ),
    "trusted_proxies": Setting(values.networks, "addresses and networks of proxies that sign people on"),
    "trusted_operators": Setting(values.names, "names in that header that are operators"),
    "callback_hosts": Setting(
        values.hosts, "hosts that may be told of ended jobs; without any, [callbacks](callbacks.md) are off"
    ),
    "callback_private": Setting(values.networks, "networks of private addresses at which these hosts may be"),
    "callback_secret_file": Setting(
        kind.path, "what callbacks are signed with; made in `data_path` if it is not there"
    ),
    "callback_ca_file": Setting(
        kind.path,
        "certificates (PEM) of the authorities that callbacks' `https` receivers are believed by, "
        "instead of the usual ones",
    ),
}
"""The keys of the file's top level, and of flags."""


def _limit(name: str, meaning: str, unit: str) -> Setting:
    # 0, as for the others: no limit.
    def parse(value: Any) -> int | float:
        return 0 if value == 0 and value is not False else parse_limit(name, value)

    return Setting(kind.expecting(f"{expected(name)} (0: no limit)", parse), meaning, unit)


SERVICE: Final[Mapping[str, Setting]] = {
    "nodes": Setting(values.urls, "base URLs of nodes; a comma between in the variable, a list in the file"),
    "upload_url": Setting(
        values.route, "a node by the full URL of its `/submit`, as job-orchestrator 2.x names it"
    ),
    "download_url": Setting(
        values.route,
        "full URL that results are fetched from; the id is appended",
        default="beside the upload URL: `/retrieve`",
    ),
    "terminate_url": Setting(
        values.route, "full URL that ends a job; the id is appended", default="beside the upload URL: `/kill`"
    ),
    "runs_per_user": Setting(_POSITIVE, "jobs of one user that are under way at once", unit="jobs"),
    "max_runs": Setting(_POSITIVE, "jobs of all users that are under way at once", unit="jobs"),
    "max_runtime": Setting(
        kind.seconds(0.0, "a number of seconds (0: no limit)"),
        "how long a run may take (0: no limit)",
        unit="s",
    ),
    "max_attempts": Setting(
        kind.whole(1, 100, "a whole number from 1 to 100"),
        "how often a job is started at most, when nodes are lost under it or cannot start it",
        unit="attempts",
    ),
    "on_node_lost": Setting(
        kind.one_of("requeue", "fail"), "what becomes of a job whose node is lost: `requeue` or `fail`"
    ),
    "max_priority": Setting(
        kind.whole(0, MOST_PRIORITY, f"a whole number from 0 to {MOST_PRIORITY}"),
        "the highest `priority` that an upload may ask for; it is 0 without one. Of a user's jobs those of "
        "a higher one go first, and none of another user waits for them",
        unit="levels",
    ),
    "partitions": Setting(
        values.batch_words("partitions"),
        'the partitions of a cluster that an upload may ask for (`partition`), as `["short", "long"]`; see '
        "[what an upload may ask for](slurm.md#what-an-upload-may-ask-for)",
    ),
    "accounts": Setting(values.batch_words("accounts"), "the same of accounts (`account`)"),
    "qos": Setting(values.batch_words("qualities of service"), "the same of qualities of service (`qos`)"),
    "max_cpus": Setting(
        kind.whole(0, MOST_CPUS, f"a whole number from 0 to {MOST_CPUS}"),
        "how many CPUs of a cluster an upload may ask for (`cpus`)",
        unit="CPUs",
    ),
    "max_gpus": Setting(
        values.gpus, 'how many GPUs an upload may ask for (`gpus`): a number, or for kinds `["a100:4"]`'
    ),
    "weights": Setting(
        values.weights,
        "users who have more than one turn in a row, as `{ 42 = 3 }`: while others wait user 42 begins "
        "three jobs for each of theirs, within the quotas",
        default="each user one",
    ),
    "keep_slots": Setting(
        kind.whole(0, 1_000_000, "a whole number from 0 to 1000000"),
        "how many slots of its nodes are [kept for it](#slots-that-are-kept) where others share them, while "
        "fewer of its jobs are under way; `max_runs` at most",
        unit="slots",
    ),
    "on_doubt": Setting(
        kind.one_of("fail", "resend"),
        "what becomes of a job when a 2.x node's answer to its submit was lost: `fail`, or "
        "`resend`, which may run it twice",
    ),
    "memory": _limit(
        "memory",
        "memory of all processes of a job together, as `4G`; see [limits of jobs](#limits-of-jobs)",
        "bytes",
    ),
    "cpu_time": _limit("cpu_time", "CPU time of all processes of a job together", "s"),
    "processes": _limit("processes", "processes of a job at once, threads included", "processes"),
    "file_size": _limit("file_size", "any single file that a job writes, as `500M`", "bytes"),
    "open_files": _limit("open_files", "open files of each process of a job", "files"),
    "disk": _limit("disk", "all files in a job's directory, as `20G`", "bytes"),
}
"""The keys of a `[services.NAME]` table."""

VARIABLES: Final = {
    key.upper(): key
    for key in (
        "port",
        "host",
        "db_path",
        "data_path",
        "max_age",
        "keep_rows",
        "audit_keep",
        "tls_cert",
        "tls_key",
        "node_ca_file",
        "max_queued",
        "max_queued_per_user",
        "max_bytes_per_user",
        "max_uploads",
        "token_rate",
        "address_rate",
        "log_format",
        "log_level",
        "access_log",
        "public_url",
        "tokens_file",
        "open_local",
        "open_contract",
        "allowed_origins",
        "trusted_user_header",
        "trusted_proxies",
        "trusted_operators",
        "callback_hosts",
        "callback_private",
        "callback_secret_file",
        "callback_ca_file",
    )
}
"""What in the environment sets which key of the server."""
SERVICE_VARIABLES: Final = (
    "UPLOAD_URL",
    "DOWNLOAD_URL",
    "TERMINATE_URL",
    "RUNS_PER_USER",
    "MAX_RUNS",
    "NODES",
)
"""How the variables `SERVICE_<NAME>_…` end, which are the keys of a service."""
SERVICE_VARIABLE: Final = re.compile(rf"SERVICE_([A-Za-z0-9_]+)_({'|'.join(SERVICE_VARIABLES)})", re.ASCII)
"""How a variable is called that sets something of a service."""
_SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


# ------------------------------------------------------------------ gathering


class _Found:
    """What was found so far, with every mistake."""

    def __init__(self) -> None:
        self._mistakes = Mistakes()
        self.server = Table(SERVER, self._mistakes, also=("services", "scaling"))
        self._services: dict[str, Table] = {}
        self._scaling: Mapping[str, ScalingConfig] = {}
        self._scaling_table = ""
        self._where: dict[tuple[str, str], str] = {}
        self._services_of_file: set[str] = set()
        self._warnings: list[str] = []

    def take_environment(self, environ: Mapping[str, str]) -> None:
        self.server.put_environment(environ, VARIABLES)
        for name in sorted(environ):
            if not name.startswith("SERVICE_") or not environ[name]:
                continue
            match = SERVICE_VARIABLE.fullmatch(name)
            if match is None:
                self._warnings.append(
                    f"{name} is ignored: it is none of SERVICE_<NAME>_{', _'.join(SERVICE_VARIABLES)}"
                )
                continue
            self._put_service(match[1].lower(), match[2].lower(), environ[name], name)

    def take_file(self, path: Path) -> None:
        data = read_toml(path, self._mistakes)
        services = data.pop("services", {})
        self._scaling_table = f"{path}: scaling"
        self._scaling = read_scaling(data.pop("scaling", {}), self._scaling_table, self._mistakes)
        self.server.put_all(data, f"{path}: ")
        if not isinstance(services, dict):
            self._mistakes.add_unexpected(f"{path}: services", services, "tables [services.NAME]")
            return
        for name, table in services.items():
            where = f"{path}: services.{name}"
            if not _SERVICE_NAME.fullmatch(name):
                self._mistakes.add(f"{where}: a service's name has letters, digits, '_', '.' and '-' only")
            elif not isinstance(table, dict):
                self._mistakes.add_unexpected(where, table, f"a table [services.{name}]")
            else:
                self._service_table(name)
                self._services_of_file.add(name)
                for key, value in table.items():
                    self._put_service(name, key, value, f"{where}.{key}")

    def require(self, keys: Collection[str]) -> None:
        """Have each of these paths without a value be a mistake."""
        for key in keys:
            if key not in self.server.values:
                ways = f"--{key.removesuffix('_path')}, {key.upper()}, or {key} in the file of --config"
                self._mistakes.add(f"{key}: no place is named; expected {ways}")

    def settings(self, check_files: FileCheck) -> Settings:
        services = {name: self._service(name, found.values) for name, found in self._services.items()}
        self._check_scaling()
        if ("tls_cert" in self.server.values) is not ("tls_key" in self.server.values):
            self._mistakes.add(explain_pair(self.server.values, "tls_cert", "tls_key"))
        if not services:
            self._warnings.append("no service is configured, so every upload will be refused")
        server = self.server.values
        server.setdefault("db_path", Path("db.sqlite").absolute())
        data = server.setdefault("data_path", Path("data").absolute())
        server.setdefault("callback_secret_file", data / SECRET_FILE)
        self._warn_of_private_hosts()
        if server.get("trusted_operators") and "trusted_user_header" not in server:
            self._warnings.append("trusted_operators: nobody is one without trusted_user_header")
        if "trusted_user_header" in server and not server.get("trusted_proxies"):
            self._warnings.append("trusted_user_header: it is believed of nobody without trusted_proxies")
        made = Settings(
            **server,
            services=MappingProxyType(services),
            scaling=MappingProxyType(dict(self._scaling)),
            as_2x=bool(services) and not self._services_of_file,
            warnings=tuple(self._warnings),
        )
        for line in check_files(made):
            self._mistakes.add(line)
        self._mistakes.check()
        return made

    def _warn_of_private_hosts(self) -> None:
        hosts = CallbackHosts(
            self.server.values.get("callback_hosts", ()), self.server.values.get("callback_private", ())
        )
        self._warnings += [
            f"callback_hosts: {rule} is a private address, so nothing is sent there unless callback_private "
            "allows it"
            for rule in hosts.out_of_reach()
        ]

    def _check_scaling(self) -> None:
        for name, config in self._scaling.items():
            where = f"{self._scaling_table}.{name}"
            if name not in self._services:
                self._mistakes.add(f"{where}: there is no service {name}: a table [services.{name}] makes it")
            if config.elsewhere and "join_url" not in self.server.values:
                self._mistakes.add(
                    f"{where}: the provider {config.provider} needs the setting join_url, by which nodes on "
                    "other machines reach this server"
                )

    def _service(self, name: str, values: dict[str, Any]) -> ServiceLimits:
        values = dict(values)
        addresses = [NodeAddress(url=url, services=(name,)) for url in values.pop("nodes", ())]
        given = {field: values.pop(name, None) or None for name, field in LIMITS.items()}
        limits = JobLimits(**given) if any(given.values()) else UNLIMITED
        batch = {
            field.name: values.pop(field.name) for field in fields(BatchAllowance) if field.name in values
        }
        upload = values.pop("upload_url", None)
        download = values.pop("download_url", None)
        terminate = values.pop("terminate_url", None)
        if upload is not None:
            base, _, _ = upload.rpartition("/")
            if limits is not UNLIMITED:
                self._warnings.append(
                    f"service {name} has limits of its jobs, and a node by upload_url, {upload}: one of "
                    "job-orchestrator 2.x knows no limits; list nodes of this version in nodes"
                )
            addresses.append(
                NodeAddress(
                    url=base,
                    services=(name,),
                    upload_url=upload,
                    download_url=download or f"{base}/retrieve",
                    terminate_url=terminate or f"{base}/kill",
                )
            )
        elif download is not None or terminate is not None:
            key = "download_url" if download is not None else "terminate_url"
            where = self._where[name, key]
            wanted = where.replace(key.upper(), "UPLOAD_URL").replace(key, "upload_url")
            self._mistakes.add(f"{where}: is of no use without {wanted}")
        made = ServiceLimits(
            name=name,
            addresses=tuple(addresses),
            limits=limits,
            batch_allowed=BatchAllowance(**batch),
            **values,
        )
        if made.keep_slots > made.max_runs:
            self._mistakes.add(
                f"{self._where[name, 'keep_slots']}: {made.keep_slots} slots would be kept for a service "
                f"that runs {made.max_runs} jobs at most (max_runs)"
            )
        return made

    def _service_table(self, name: str) -> Table:
        return self._services.setdefault(name, Table(SERVICE, self._mistakes))

    def _put_service(self, name: str, key: str, value: Any, where: str) -> None:
        self._where[name, key] = where
        self._service_table(name).put(key, value, where)
