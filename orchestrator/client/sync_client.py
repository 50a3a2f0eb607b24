"""The plain client: blocks until an answer is there. It has the methods of `Operations`, each waited for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from orchestrator.client.async_client import headers
from orchestrator.client.files import PathLike
from orchestrator.client.operations import Operations
from orchestrator.client.retries import Retries
from orchestrator.client.transport import SyncWire, straight

T = TypeVar("T")
P = ParamSpec("P")


def _waited(
    method: Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    @wraps(method)
    def call(self: Client, /, *arguments: P.args, **named: P.kwargs) -> T:
        return straight(method(self._operations, *arguments, **named))

    return call


def _iterated(
    method: Callable[Concatenate[Operations, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    @wraps(method)
    def call(self: Client, /, *arguments: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        source = method(self._operations, *arguments, **named)
        try:
            while True:
                try:
                    item = straight(_next(source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            straight(_close(source))

    return call


async def _next(source: AsyncGenerator[T, None]) -> T:
    return await anext(source)


async def _close(source: AsyncGenerator[T, None]) -> None:
    await source.aclose()


class Client:
    """An orchestrator at `url`, for who is in no event loop; `token` and `ca_file` as AsyncClient has them.
    For one thread at a time. All of it raises ClientError."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: PathLike | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._operations = Operations(SyncWire(url, headers(url, token), ca_file), retries or Retries())

    submit = _waited(Operations.submit)
    job = _waited(Operations.job)
    wait = _waited(Operations.wait)
    jobs = _iterated(Operations.jobs)
    history = _waited(Operations.history)
    iter_events = _iterated(Operations.iter_events)
    logs = _iterated(Operations.logs)
    download = _waited(Operations.download)
    download_partial = _waited(Operations.download_partial)
    files = _waited(Operations.files)
    download_file = _waited(Operations.download_file)
    cancel = _waited(Operations.cancel)
    rerun = _waited(Operations.rerun)
    delete = _waited(Operations.delete)
    queue = _waited(Operations.queue)
    activity = _waited(Operations.activity)
    nodes = _waited(Operations.nodes)
    services = _waited(Operations.services)
    drain = _waited(Operations.drain)
    undrain = _waited(Operations.undrain)
    pause = _waited(Operations.pause)
    resume = _waited(Operations.resume)
    close = _waited(Operations.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
