"""The body of `/v1/jobs/{id}/input-changes`, as `bodies` has the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from orchestrator.contract.bodies import Also

MOST_CHANGES: Final = 1000
"""Files that are named."""

InputChangeKind: TypeAlias = Literal["changed", "new", "left_out", "not_compared"]


@dataclass(frozen=True, slots=True)
class InputChange:
    """A file that came with one of two jobs, or with both and other bytes."""

    path: str
    change: Annotated[
        str,
        Also(
            enum=[*get_args(InputChangeKind)],
            description="left_out: the earlier job had it; not_compared: it is as long as before, and too "
            "large to be compared",
        ),
    ]


@dataclass(frozen=True, slots=True)
class InputChanges:
    """How what a job was given differs from what the job was given that it repeats; `items` by path. `raw` is
    the JSON that it came as."""

    rerun_of: int
    items: Annotated[tuple[InputChange, ...], Also(maxItems=MOST_CHANGES)]
    more: Annotated[int, Also(minimum=0, description="How many differ besides those")] = 0
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
