"""The client for Trio and asyncio."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from orchestrator.access.token_files import find_operator_token
from orchestrator.client.errors import BadInput
from orchestrator.client.operations import Operations
from orchestrator.client.retries import Retries
from orchestrator.client.transport import PathLike, Wire
from orchestrator.client.urls import exposes, normalize_url


class AsyncClient(Operations):
    """An orchestrator at `url`. `token` is sent with each request; without one, what the server of this very
    account wrote down for it on this machine. `ca_file` has the certificates of the
    authorities that are believed, in place of the usual ones. For any number of tasks at once. What it does
    is told in `operations.Operations`; all of it raises ClientError."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: PathLike | None = None,
        retries: Retries | None = None,
    ) -> None:
        super().__init__(_wire(url, build_headers(url, token), ca_file), retries or Retries())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()  # noqa: ASYNC102  # close is quick; a cancelled one closes too


def _wire(url: str, headers: Mapping[str, str], ca_file: PathLike | None) -> Wire:
    try:
        # Late: who only blocks needs no anyio.
        from orchestrator.client.async_transport import AsyncWire
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"AsyncClient needs {missing.name}; type: pip install 'job-orchestrator-client[async]'"
        ) from missing
    return AsyncWire(url, headers, ca_file)


def build_headers(url: str, token: str | None) -> Mapping[str, str]:
    """What every request carries; a `token` of "" is none. Raises BadInput for a token that no header can
    hold; warns when others can read it on its way."""
    headers = {"User-Agent": "orchestrator-client"}
    if token is None:
        parts = urlsplit(normalize_url(url))
        token = find_operator_token(parts.hostname or "", parts.port or 80, os.environ)
    if token:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise BadInput("the token holds characters that no token has; check where it comes from")
        if exposes(normalize_url(url)):
            warnings.warn(exposure_warning(url), stacklevel=3)
        headers["Authorization"] = f"Bearer {token}"
    return headers


def exposure_warning(url: str) -> str:
    """What is said of a token that goes there."""
    return f"the token goes to {url} without encryption, and others can read it; use https"
