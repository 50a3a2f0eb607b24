"""The client for Trio and asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from orchestrator.client.errors import BadInput
from orchestrator.client.operations import Operations
from orchestrator.client.retrying import Retries
from orchestrator.client.transport import AsyncWire


class AsyncClient(Operations):
    """An orchestrator at `url`. `token` is sent with each request. For any number of tasks at once. What it
    does is told in `operations.Operations`; all of it raises ClientError."""

    def __init__(self, url: str, *, token: str | None = None, retries: Retries | None = None) -> None:
        super().__init__(AsyncWire(url, headers(token)), retries or Retries())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()  # noqa: ASYNC102  # close is quick; a cancelled one closes too


def headers(token: str | None) -> Mapping[str, str]:
    """What every request carries. Raises BadInput for a token that no header can hold."""
    told = {"User-Agent": "orchestrator-client"}
    if token:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise BadInput("the token holds characters that no token has; check where it comes from")
        told["Authorization"] = f"Bearer {token}"
    return told
