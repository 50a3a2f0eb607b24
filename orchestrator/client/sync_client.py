"""The plain client: blocks until an answer is there. It has the methods of `Operations`, each waited for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from orchestrator.client.async_client import build_headers
from orchestrator.client.files import PathLike
from orchestrator.client.operations import Operations
from orchestrator.client.retries import Retries
from orchestrator.client.transport import SyncWire, run_straight

T = TypeVar("T")
P = ParamSpec("P")


def _wait_for(
    method: Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    @wraps(method)
    def call(self: Client, /, *arguments: P.args, **named: P.kwargs) -> T:
        return run_straight(method(self._operations, *arguments, **named))

    return call


def _iterate(
    method: Callable[Concatenate[Operations, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    @wraps(method)
    def call(self: Client, /, *arguments: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        source = method(self._operations, *arguments, **named)
        try:
            while True:
                try:
                    item = run_straight(_next(source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            run_straight(_close(source))

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
        self._operations = Operations(SyncWire(url, build_headers(url, token), ca_file), retries or Retries())

    submit = _wait_for(Operations.submit)
    submit_many = _wait_for(Operations.submit_many)
    job = _wait_for(Operations.job)
    wait = _wait_for(Operations.wait)
    wait_all = _iterate(Operations.wait_all)
    create_batch = _wait_for(Operations.create_batch)
    batch = _wait_for(Operations.batch)
    jobs = _iterate(Operations.jobs)
    history = _wait_for(Operations.history)
    iter_events = _iterate(Operations.iter_events)
    logs = _iterate(Operations.logs)
    download = _wait_for(Operations.download)
    download_partial = _wait_for(Operations.download_partial)
    files = _wait_for(Operations.files)
    download_file = _wait_for(Operations.download_file)
    cancel = _wait_for(Operations.cancel)
    rerun = _wait_for(Operations.rerun)
    input_changes = _wait_for(Operations.input_changes)
    delete = _wait_for(Operations.delete)
    queue = _wait_for(Operations.queue)
    troubles = _wait_for(Operations.troubles)
    activity = _wait_for(Operations.activity)
    node = _wait_for(Operations.node)
    nodes = _wait_for(Operations.nodes)
    services = _wait_for(Operations.services)
    drain = _wait_for(Operations.drain)
    undrain = _wait_for(Operations.undrain)
    unpair = _wait_for(Operations.unpair)
    pause = _wait_for(Operations.pause)
    resume = _wait_for(Operations.resume)
    reload = _wait_for(Operations.reload)
    log_level = _wait_for(Operations.log_level)
    set_log_level = _wait_for(Operations.set_log_level)
    tokens = _wait_for(Operations.tokens)
    create_token = _wait_for(Operations.create_token)
    revoke_token = _wait_for(Operations.revoke_token)
    link = _wait_for(Operations.link)
    audit = _iterate(Operations.audit)
    usage = _iterate(Operations.usage)
    close = _wait_for(Operations.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
