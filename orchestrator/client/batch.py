"""Many jobs that are handed in by one call."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, Required, TypedDict

from orchestrator.client.errors import BadInput, ClientError, Unreachable, Untrusted
from orchestrator.client.files import Files
from orchestrator.client.transport import Wire
from orchestrator.contract.bodies import Job

LONGEST_KEY: Final = 200
"""Characters of a batch's key: each job's has its place behind it."""


class JobRequest(TypedDict, total=False):
    """What `submit` takes, for one job of many; `service` is the only one if it is left out."""

    files: Required[Files]
    user: Required[int]
    service: str | None
    name: str | None
    tags: Iterable[str]
    max_runtime: float | None
    memory: int | str | None
    cpu_time: float | None
    processes: int | None
    file_size: int | str | None
    open_files: int | None
    disk: int | str | None
    requires: str | None
    priority: int | None
    partition: str | None
    account: str | None
    qos: str | None
    cpus: int | None
    gpus: int | str | None
    callback_url: str | None
    rerun_of: int | None


async def submit_many(
    wire: Wire,
    submit: Callable[..., Coroutine[Any, Any, Job]],
    requests: Sequence[JobRequest],
    at_once: int,
    key: str | None,
) -> Sequence[Job | ClientError]:
    """See `Operations.submit_many`; every request has its service."""
    if at_once < 1:
        raise BadInput(f"at_once is how many uploads may be under way, at least 1, not {at_once}")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise BadInput(f"the key of a batch has 1 to {LONGEST_KEY} characters, not {len(key)}")
    key = key or secrets.token_hex(16)
    found: dict[int, Job | ClientError] = {}
    away: list[ClientError] = []

    async def hand_in(place: int, request: JobRequest) -> None:
        # Where nobody answers, the others need not find that out one by one.
        if away:
            found[place] = away[0]
            return
        try:
            found[place] = await submit(**request, idempotency_key=f"{key}-{place}")
        except ClientError as error:
            found[place] = error
            if isinstance(error, Unreachable | Untrusted):
                away.append(error)

    await wire.each([partial(hand_in, place, request) for place, request in enumerate(requests)], at_once)
    return [found[place] for place in range(len(requests))]
