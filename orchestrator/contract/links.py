"""The bodies of `/v1/jobs/{id}/links`, as `bodies` has the others."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from orchestrator.contract.bodies import Also, Time


class LinkOrderBody(TypedDict):
    """The link that is to be made."""

    file: NotRequired[
        Annotated[str | None, Also(description="By its `path` in the list of files; null: all results")]
    ]
    view: NotRequired[
        Annotated[bool, Also(description="The file as `?view=1` shows it; of all results it means nothing")]
    ]
    expires_in: NotRequired[Annotated[float, Also(exclusiveMinimum=0, maximum=604_800, default=3600)]]


class LinkBody(TypedDict):
    """A link that needs no token."""

    url: Annotated[str, Also(description="Without the setting public_url: from `/v1` on")]
    expires_at: Time
