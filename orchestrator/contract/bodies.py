"""The bodies of `/v1`, declared once: what routes answer, what the OpenAPI document says of it, and the
values of the Python client all come from these types.

What the client gives out as a value is a dataclass; what is JSON and nothing else is a TypedDict, which costs
next to nothing to declare, and a command is started often. Times are UTC, durations seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias, TypedDict

OVER: Final = frozenset({"Completed", "Failed", "Invalid", "Killed", "Cleaned"})
"""Statuses that a job does not leave for a running one."""


class Also:
    """What JSON Schema has to say of a field besides its type."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords


class Key(str):
    """What a field is called in JSON, where its name here is another."""


class Of(str):
    """Which type a text or an object of JSON stands for: the name of a schema or of an enumeration. Not the
    type itself, so that the client does not import the server's."""


StatusName: TypeAlias = Annotated[str, Of("Status")]
Time: TypeAlias = Annotated[str, Also(format="date-time")]
Month: TypeAlias = Annotated[str, Also(pattern="^[0-9]{4}-(0[1-9]|1[0-2])$", examples=["2026-11"])]
_ALWAYS: Final = Also(
    type="string"
)  # in an answer it is; in a value that a program makes for itself it may lack

_LIMITS: Final = Also(
    description="What a job may use at most: memory_bytes, cpu_seconds, processes, file_bytes, open_files, "
    "disk_bytes; what is not limited is left out"
)
LINE: Final = Also(pattern="^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$")
_NODE_NAME: TypeAlias = Annotated[
    str | None, Also(description="How the node is called; its id where it has no name")
]
_SIZE: Final = Also(pattern=r"^[0-9]{1,18}(\.[0-9]{1,6})?[KMGT]?$", examples=["512M", "4G"])
_BATCH_WORD: Final = Also(pattern="^[A-Za-z0-9][A-Za-z0-9_.:,+=@/-]{0,199}$")
_HEX: Final = Also(pattern="^[0-9a-f]{32}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """`raw` is the JSON that it came as: what this version does not know is there."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class JobCallback:
    """Who is told of an end, and how that stands."""

    url: Annotated[str, Also(format="uri")]
    status: Annotated[str, Of("CallbackStatus")]
    tries: int = 0
    last_error: str | None = None
    next_at: datetime | None = None
    settled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cancellation:
    """When a job was ordered to end, and the role of who ordered it; None if that is not known."""

    at: datetime
    by: Annotated[str | None, Of("Role")] = None


@dataclass(frozen=True, slots=True)
class LeftOutFile:
    """A file that results lack, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job in the batch system that runs it, in whose own words `id`, `state` and `reason` are. `state`
    None: it has said none yet, or the job has ended before that was heard of there."""

    system: str
    id: str
    state: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What a job asks of the batch system that runs it; null what is as its node has it. `gpus`: a number,
    or a kind with it, as `a100:2`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cpus: int | None = None
    gpus: str | None = None


@dataclass(frozen=True, slots=True)
class BatchAllowance:
    """What an upload may ask of a batch system: nothing of what is empty, or 0. `max_gpus`: of each kind, or
    of any where no kind is named, the most."""

    partitions: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    max_cpus: int = 0
    max_gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Period:
    """When something is estimated to happen: one time in ten it is earlier, one in ten later. `latest` None:
    nobody can say how late."""

    earliest: datetime | None = None
    latest: datetime | None = None


@dataclass(frozen=True, slots=True)
class Job(_Value):
    """A job as it stood when it was asked for.

    `message` says why it waits or why it ended so. `version` grows with each change. `exit_code` is None if
    the script was ended by `signal`, or never ran. `progress` is the share that the script says is done, 0 to
    1, `progress_message` what it says besides; both None if it says nothing."""

    id: int
    user: Annotated[int, Key("user_id")]
    service: str
    status: StatusName
    message: str
    version: int
    outcome: Annotated[
        str | None,
        Of("Status"),
        Also(
            description="How it ended, also once its data was deleted; null until then, and of a deleted job "
            "that never ran: its history tells"
        ),
    ] = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    waiting_for: Annotated[str | None, Of("WaitReason")] = None
    failure: Annotated[
        str | None,
        Of("Failure"),
        Also(description="Why it failed, also once it is Cleaned; else null"),
    ] = None
    position: Annotated[
        int | None, Also(description="How many jobs of its service go before it; 0: it is the next")
    ] = None
    terminate_requested: bool = False
    created_at: Annotated[datetime | None, _ALWAYS] = None
    updated_at: Annotated[datetime | None, _ALWAYS] = None
    started_at: Annotated[
        datetime | None, Also(description="Of its attempt. While it runs: when that was first seen")
    ] = None
    finished_at: Annotated[
        datetime | None,
        Also(description="When its script ended; `ended_at` is when all was here"),
    ] = None
    ended_at: datetime | None = None
    starts_at: Annotated[
        Period | None,
        Also(
            description="When it is estimated to begin, while it is queued. Null where that is unknown, "
            "and in lists that were not asked for it"
        ),
    ] = None
    ends_at: Annotated[
        Period | None, Also(description="When it is estimated to end, while it is not over; null as above")
    ] = None
    no_estimate: Annotated[
        str | None, Also(description="Why no time is estimated, of a job that is not over")
    ] = None
    node: str | None = None
    node_name: _NODE_NAME = None
    attempt: int | None = None
    attempts_used: int = 0
    exit_code: int | None = None
    signal: int | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    input_bytes: int = 0
    output_bytes: int | None = None
    max_runtime_seconds: float = 0.0
    limits: Annotated[Mapping[str, float], _LIMITS] = field(default_factory=dict)
    requires: str = ""
    priority: int = 0
    batch_request: Annotated[
        BatchRequest | None,
        Also(description="What its upload asks of a batch system; null if nothing"),
    ] = None
    progress: Annotated[float | None, Also(minimum=0, maximum=1)] = None
    progress_message: str | None = None
    batch: Annotated[
        BatchJob | None,
        Also(description="How its attempt stands in the batch system that runs it, as Slurm; null elsewhere"),
    ] = None
    rerun_of: int | None = None
    ignored: Annotated[
        tuple[str, ...],
        Also(description="Fields of its upload that mean nothing here, as misspelt ones do; 32 at most"),
    ] = ()
    callback: Annotated[
        JobCallback | None,
        Also(description="Who is told of its end, and how that stands. Null in lists, and if nobody is"),
    ] = None
    cancelled: Annotated[
        Cancellation | None,
        Also(description="When somebody cancelled it, and who. Null in lists, and if nobody did"),
    ] = None
    files_left_out: Annotated[
        tuple[LeftOutFile, ...] | None,
        Also(description="What its results lack, and why. Null in lists and until it has ended"),
    ] = None

    over: Annotated[
        bool,
        Also(description="Whether it has ended, in whatever way: it is not run any more"),
    ] = field(init=False)

    def __post_init__(self) -> None:
        # Out of the status, so that it is right whatever an answer lacks.
        object.__setattr__(self, "over", self.status in OVER)

    @property
    def succeeded(self) -> bool:
        """Whether its script ended with exit code 0."""
        return self.exit_code == 0 and self.status in ("Completed", "Cleaned")


FileOrigin: TypeAlias = Literal["input", "changed", "new"]


@dataclass(frozen=True, slots=True)
class File(_Value):
    """A file of a job's directory. `path` is spelled as in the zip; `target` is where a link leads."""

    path: str
    size: int
    kind: Annotated[str, Also(enum=["file", "directory", "link"])]
    mode: Annotated[str, Also(examples=["0644"])]
    mtime: Annotated[datetime | None, _ALWAYS] = None
    target: str | None = None
    url: Annotated[str, Also(description="The path as it has to stand in an URL")] = ""
    origin: Annotated[
        str | None,
        Also(
            enum=["input", "changed", "new", None],
            description="An input as it came, one that the script has changed, or new; null for what is no "
            "file. While it runs, and of very large inputs, a change is known by the size alone",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Holder(_Value):
    """How many jobs of a user wait for a service, and how many are under way."""

    service: str
    user: Annotated[int, Key("user_id")]
    queued: int
    under_way: int


@dataclass(frozen=True, slots=True)
class Node(_Value):
    """A node as the scheduler sees it. `slots` None: it runs whatever it is sent. `held` are our jobs on it,
    `others` those of somebody else. `draining` says why it gets no new jobs. Its `name` is what people call
    it, unique among those that are there; its id where it has none."""

    id: str
    url: str
    status: Annotated[str, Of("NodeState")]
    message: str
    services: tuple[str, ...]
    slots: int | None
    held: int
    others: int
    load: float
    draining: str | None
    name: Annotated[str, _ALWAYS] = ""
    kind: Annotated[str, Also(enum=["own", "foreign"])] = "own"
    source: Annotated[str, Also(enum=["static", "joined"])] = "static"
    labels: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    last_contact_seconds: float | None = None
    jobs_ended: Annotated[int, Also(description="There, since the server started")] = 0
    jobs_failed: int = 0
    free_disk_bytes: int | None = None
    free_memory_bytes: int | None = None
    seconds_left: Annotated[
        float | None, Also(description="For which it is there still, as on a cluster; null: no end is known")
    ] = None
    clock_skew_seconds: Annotated[
        float | None, Also(description="By how much its clock is ahead of ours")
    ] = None
    executor: Annotated[
        str | None,
        Also(
            description="The tier in which scripts run there, as bubblewrap, landlock or bash; null where it "
            "does not say"
        ),
    ] = None
    executor_limits: Annotated[
        str | None,
        Also(description="How scripts are kept apart there, and what that does not cover, in sentences"),
    ] = None


@dataclass(frozen=True, slots=True)
class Trouble(_Value):
    """Something that is wrong now: `text` says it to people, as a sentence without its full stop; the others
    what it is about, where that is one thing. `jobs` is how many it concerns."""

    kind: Annotated[str, Of("TroubleKind")]
    text: str
    service: str | None = None
    node: str | None = None
    node_name: _NODE_NAME = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceNodes:
    """The nodes of a service. `slots` of those that are ready; None when one of them runs whatever it is
    sent."""

    known: int = 0
    ready: int = 0
    slots: int | None = None
    held: int = 0


@dataclass(frozen=True, slots=True)
class EstimateAccuracy:
    """How good the estimates of a service are, measured at some of its jobs that waited: of `judged` so many
    began `inside` of what was said when they were handed in. Medians of how wide that was, and of the wait;
    None if none was judged."""

    judged: int = 0
    inside: int = 0
    median_width_seconds: float | None = None
    median_wait_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Service(_Value):
    """A service with its quotas; `jobs` counts its jobs by status."""

    name: str
    runs_per_user: int
    max_runs: int
    jobs: Mapping[str, int]
    pause_reason: Annotated[str | None, Key("paused"), Also(description="Why; null if it is not")] = None
    paused_since: datetime | None = None
    max_attempts: int = 0
    max_runtime_seconds: float = 0.0
    limits: Annotated[Mapping[str, float], _LIMITS] = field(default_factory=dict)
    on_node_lost: str = ""
    on_doubt: str = ""
    max_priority: int = 0
    keep_slots: Annotated[
        int, Also(description="Slots that other services do not get, while fewer of its jobs are under way")
    ] = 0
    batch_allowed: BatchAllowance = BatchAllowance()
    nodes: ServiceNodes = ServiceNodes()
    estimates: EstimateAccuracy = EstimateAccuracy()

    @property
    def paused(self) -> bool:
        """Whether no more of its jobs begin."""
        return self.pause_reason is not None


# ---------------------------------------------------------------------- JSON and nothing else

EventBody = TypedDict(
    "EventBody",
    {
        "version": int,
        "job_id": int,
        "user_id": int,
        "service": str,
        "name": str | None,
        "at": Time,
        "from": str | None,
        "status": StatusName,
        "reason": str,
        "node": str | None,
        "node_name": _NODE_NAME,
        "attempt": int | None,
        "job": Annotated[dict[str, Any] | None, Of("Job")],
    },
)
"""A change of a job. `job` is the whole job where this is its newest change, None where a later one
follows."""

TransitionBody = TypedDict(
    "TransitionBody",
    {
        "at": Time,
        "from": str | None,
        "to": StatusName,
        "reason": str,
        "node": str | None,
        "node_name": _NODE_NAME,
        "attempt": int | None,
    },
)
"""A line of a job's history."""


class LogTextBody(TypedDict):
    """A piece of a log."""

    stream: str
    text: str
    offset: int
    next_offset: Annotated[int, Also(description="In bytes of the log: where to go on")]
    closed: NotRequired[Annotated[bool, Also(description="Nothing follows any more; not in events")]]


class LogEndBody(TypedDict):
    """The last event of a followed log."""

    status: StatusName
    next_offset: int


class UsageBody(TypedDict):
    """What the jobs of a user and service used that have ended in a month."""

    month: Month
    user_id: int
    service: str
    jobs: Annotated[int, Also(description="That ended, and that 2.x had cleaned")]
    completed: int
    failed: int
    invalid: int
    killed: int
    wall_seconds: Annotated[float, Also(description="Of scripts; also of attempts that were run again")]
    cpu_seconds: Annotated[float, Also(description="As wall_seconds")]
    memory_byte_seconds: Annotated[
        float, Also(description="The most that a script held at once, times its wall seconds")
    ]
    bytes_in: Annotated[int, Also(description="Uploaded")]
    bytes_out: Annotated[int, Also(description="There to be collected at the end")]


class MinuteBody(TypedDict):
    """What a minute brought."""

    at: Time
    service: str
    submitted: int
    begun: Annotated[int, Also(description="Jobs that left the queue for the first time")]
    completed: int
    failed: Annotated[int, Also(description="Failed or Invalid")]
    killed: int
    mean_wait_seconds: Annotated[float | None, Also(description="In the queue, of those that left it")]
    longest_wait_seconds: float | None


class ReadyBody(TypedDict):
    """Whether the server does its work, and what is in its way."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str]


class JobStatusBody(TypedDict):
    """The published contract's StatusBody."""

    id: int
    status: StatusName
    message: str


class RefusedBody(JobStatusBody):
    """A refusal of the contract's routes: a StatusBody with a stable `code`, as problems have it."""

    code: Annotated[
        str, Also(description="Why, in a word that stays the same; of a limit its setting's name")
    ]


class AcceptedBody(JobStatusBody):
    """A StatusBody, and which fields of the form mean nothing here; without any the contract's keys alone."""

    ignored: NotRequired[Annotated[list[str], Also(maxItems=32)]]


class PingBody(TypedDict):
    """Whether the server answers."""

    message: str


class HealthBody(TypedDict):
    """Whether the database answers."""

    status: str
    database: str


class ProblemBody(TypedDict):
    """A refusal, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class UploadBody(TypedDict):
    """The fields of a job that is handed in."""

    file: NotRequired[list[Annotated[str, Also(format="binary")]]]
    user_id: Annotated[int, Also(format="int64", minimum=-(1 << 63), maximum=(1 << 63) - 1)]
    service: Annotated[str, Also(description="One of GET /v1/services")]
    name: NotRequired[
        Annotated[str, LINE, Also(maxLength=200, description="What the job is called in lists")]
    ]
    tags: NotRequired[
        Annotated[
            str | Annotated[list[str], Also(maxItems=32)],
            Also(description="Words to find it by: a field for each, or several with commas between"),
        ]
    ]
    max_runtime: NotRequired[
        Annotated[
            float,
            Also(
                minimum=0.000001,
                maximum=999_999_999,
                description="Seconds that the job may run, at most what the service allows; no exponent",
            ),
        ]
    ]
    memory: NotRequired[Annotated[str, _SIZE, Also(description="Of all its processes together")]]
    cpu_time: NotRequired[
        Annotated[float, Also(minimum=0.001, description="Seconds of all its processes together")]
    ]
    processes: NotRequired[Annotated[int, Also(minimum=2, description="At once, threads included")]]
    file_size: NotRequired[Annotated[str, _SIZE, Also(description="Of any single file")]]
    open_files: NotRequired[Annotated[int, Also(minimum=8, description="Of each process")]]
    disk: NotRequired[Annotated[str, _SIZE, Also(description="Of all files in its directory")]]
    priority: NotRequired[
        Annotated[
            int,
            Also(
                minimum=0,
                maximum=100,
                description="It goes before jobs of the same user that have a smaller one; at most what the "
                "service allows",
            ),
        ]
    ]
    partition: NotRequired[
        Annotated[str, _BATCH_WORD, Also(description="Of a cluster: one that the service lists")]
    ]
    account: NotRequired[
        Annotated[str, _BATCH_WORD, Also(description="In a cluster: one that the service lists")]
    ]
    qos: NotRequired[
        Annotated[
            str, _BATCH_WORD, Also(description="Quality of service in a cluster: one that the service lists")
        ]
    ]
    cpus: NotRequired[
        Annotated[
            int, Also(minimum=1, maximum=100_000, description="Of a cluster, at most what the service allows")
        ]
    ]
    gpus: NotRequired[
        Annotated[
            str,
            Also(
                pattern="^([A-Za-z0-9_.-]{1,64}:)?[1-9][0-9]{0,3}$",
                examples=["1", "a100:2"],
                description="Of a cluster, at most what the service allows: a number, or a kind with it",
            ),
        ]
    ]
    requires: NotRequired[
        Annotated[str, Also(description="Labels that its node has to have, as gpu or gpu=a100,ssd")]
    ]
    callback_url: NotRequired[
        Annotated[
            str,
            Also(
                anyOf=[{"format": "uri"}, {"const": ""}],
                maxLength=2000,
                description="Whom to tell of its end, at one of the hosts that the server allows",
            ),
        ]
    ]
    rerun_of: NotRequired[
        Annotated[int, Also(minimum=1, description="The earlier job that it repeats, maybe with changes")]
    ]


class JoiningNodeBody(TypedDict):
    """A node that joins."""

    id: Annotated[str, _HEX]
    url: Annotated[str, Also(format="uri", description="Where it is reached from the server")]
    services: Annotated[list[str], Also(minItems=1)]
    slots: NotRequired[Annotated[int | None, Also(minimum=1)]]
    labels: NotRequired[dict[str, str] | None]
    machine: NotRequired[Annotated[str | None, _HEX]]
    nonce: NotRequired[Annotated[str | None, _HEX]]


class ReasonBody(TypedDict):
    """What people are told of an order."""

    reason: NotRequired[Annotated[str, LINE, Also(minLength=1, maxLength=500)]]


class JoinedNodeBody(TypedDict):
    """What a node that joins is answered."""

    id: str
    url: str
    services: list[str]
    unknown_services: list[str]


class MachineBody(TypedDict):
    """A machine that scaling started. `token` is the beginning of what its node joins with."""

    token: str
    id: str | None
    node: str | None
    node_name: _NODE_NAME
    status: str
    requested_at: Time
    reason: str


class ScalingBody(TypedDict):
    """How a service's scaling stands."""

    service: str
    provider: str
    nodes: int
    booting: int
    ending: int
    runnable: int
    trouble: str
    min_nodes: int
    max_nodes: int
    slots_per_node: int
    machines: list[MachineBody]


class DecisionBody(TypedDict):
    """What scaling decided, and why."""

    at: Time
    service: str
    action: str
    subject: str
    reason: str


class TokenBody(TypedDict):
    """A token that holds. `id` names it and is no secret."""

    id: str
    role: Annotated[str, Of("Role")]
    name: str
    services: Annotated[list[str], Also(description="Empty: any")]
    user: int | None
    created_at: Time
    expires_at: Time | None
    used_at: Annotated[Time | None, Also(description="To the minute")]
    once: Annotated[bool, Also(description="For one node alone")]
    max_slots: Annotated[int | None, Also(description="That its nodes may have")]
    sources: Annotated[list[str], Also(description="Networks that its nodes join from; empty: any")]


Action: TypeAlias = Literal[
    "submit",
    "rerun",
    "terminate",
    "delete",
    "batch",
    "link",
    "join",
    "leave",
    "drain",
    "undrain",
    "forget_secret",
    "pause",
    "resume",
    "log in",
    "reload",
    "log-level",
    "create token",
    "revoke token",
    "refused",
]
"""What a line of who did what may say that was done."""


class AuditBody(TypedDict):
    """A line of who did what."""

    at: Time
    who: Annotated[str, Also(description="Name of a token or a person, local, open contract; empty: nobody")]
    token: Annotated[str | None, Also(description="The token's id")]
    role: Annotated[str, Of("Role")] | None
    address: Annotated[str, Also(description="Where it came from; empty: not known")]
    action: Action
    job: int | None
    node: str | None
    node_name: _NODE_NAME
    about: Annotated[str | None, Also(description="The service, or the id of the token or the batch")]
    detail: str


class LogLevelBody(TypedDict):
    """What the log says at least."""

    level: Literal["debug", "info", "warning", "error"]


class ReloadedBody(TypedDict):
    """What came of reading the settings again."""

    changed: Annotated[list[str], Also(description="Settings that are other than before, as they are called")]
    after_restart: Annotated[
        list[str], Also(description="Those that were read and change with a restart only")
    ]
    warnings: list[str]


class NewTokenBody(TokenBody):
    """A token that was made just now, with its secret."""

    secret: str


class SessionBody(TypedDict):
    """Who asks."""

    role: Annotated[str, Of("Role")]
    name: str
    services: Annotated[list[str], Also(description="Empty: any")]
    user: Annotated[int | None, Also(description="Whose jobs alone they see")]
    expires_at: Time | None
    session_token: Annotated[str | None, Also(description="What its orders send as X-Session-Token")]
    may: Annotated[list[str], Also(description="What they may ask for: methods and paths of this document")]
    version: Annotated[int, Also(description="/v1/events?after=VERSION tells all that changes from here on")]


class LogInBody(TypedDict):
    """Who logs in."""

    token: str


class TokenOrderBody(TypedDict):
    """The token that is to be made."""

    role: Annotated[str, Of("Role")]
    name: NotRequired[Annotated[str, LINE, Also(maxLength=100, description="What people call it")]]
    services: NotRequired[Annotated[list[str], Also(description="For which alone it is; empty: for all")]]
    user: NotRequired[
        Annotated[int | None, Also(minimum=-(1 << 63), maximum=(1 << 63) - 1, description="Of the role user")]
    ]
    expires_in: NotRequired[Annotated[float | None, Also(exclusiveMinimum=0, description="Seconds")]]
    once: NotRequired[Annotated[bool | None, Also(description="Of the role node: for one node alone")]]
    max_slots: NotRequired[Annotated[int | None, Also(minimum=1, maximum=1_000_000)]]
    sources: NotRequired[Annotated[list[str] | None, Also(maxItems=100, description="Networks")]]
