"""The bodies of `/v1/batches`, as `bodies` has the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, TypedDict

from actors.domain.ids import MAX_ID
from orchestrator.contract.bodies import Also, JobCallback

MOST_IN_BATCH: Final = 10_000
"""Jobs of one batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of which one callback tells once all of them have ended. `left` have not yet; the others are
    counted by how they ended, but for those of which that is not known any more, as 2.x had deleted them.
    `raw` is the JSON that it came as."""

    id: str
    jobs: int
    left: int
    completed: int
    failed: int
    invalid: int
    killed: int
    not_completed: Annotated[
        tuple[int, ...],
        Also(description="The first 100 of its jobs that ended otherwise than Completed"),
    ]
    created_at: datetime
    ended_at: Annotated[
        datetime | None, Also(description="Its last job's end; of jobs that had all ended, its order")
    ] = None
    callback: Annotated[JobCallback | None, Also(description="Null in what the callback itself tells")] = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class BatchOrderBody(TypedDict):
    """Jobs of which one callback is to tell."""

    jobs: Annotated[
        list[Annotated[int, Also(minimum=1, maximum=MAX_ID)]],
        Also(minItems=1, maxItems=MOST_IN_BATCH, uniqueItems=True, description="Their ids"),
    ]
    callback_url: Annotated[
        str,
        Also(
            format="uri",
            minLength=1,
            maxLength=2000,
            description="Whom to tell once all have ended, at one of the hosts that the server allows",
        ),
    ]
