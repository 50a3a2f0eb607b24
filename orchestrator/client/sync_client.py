"""The plain client: blocks until an answer is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from orchestrator.client.async_client import headers
from orchestrator.client.files import Files, PathLike
from orchestrator.client.operations import Operations
from orchestrator.client.retries import Retries
from orchestrator.client.streams import Event
from orchestrator.client.transport import Progress, SyncWire, straight
from orchestrator.contract.bodies import File, Holder, Job, MinuteBody, Node, Service, TransitionBody

T = TypeVar("T")


class Client:
    """An orchestrator at `url`, for who is in no event loop; `token` and `ca_file` as AsyncClient has them.
    For one thread at a time. Each method is told in `operations.Operations`, and raises ClientError."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: PathLike | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._all = Operations(SyncWire(url, headers(url, token), ca_file), retries or Retries())

    def submit(
        self,
        files: Files,
        *,
        service: str | None = None,
        user: int,
        name: str | None = None,
        tags: Iterable[str] = (),
        max_runtime: float | None = None,
        requires: str | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        progress: Progress | None = None,
    ) -> Job:
        return straight(
            self._all.submit(
                files,
                service=service,
                user=user,
                name=name,
                tags=tags,
                max_runtime=max_runtime,
                requires=requires,
                callback_url=callback_url,
                idempotency_key=idempotency_key,
                progress=progress,
            )
        )

    def job(self, number: int) -> Job:
        return straight(self._all.job(number))

    def wait(self, number: int, timeout: float | None = None) -> Job:
        return straight(self._all.wait(number, timeout))

    def jobs(
        self,
        *,
        user: int | None = None,
        service: str | None = None,
        status: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        node: str | None = None,
        search: str | None = None,
        limit: int | None = None,
    ) -> Generator[Job, None, None]:
        return _pulled(
            self._all.jobs(
                user=user,
                service=service,
                status=status,
                name=name,
                tag=tag,
                node=node,
                search=search,
                limit=limit,
            )
        )

    def history(self, number: int) -> Sequence[TransitionBody]:
        return straight(self._all.history(number))

    def iter_events(
        self, number: int | None = None, *, user: int | None = None, service: str | None = None
    ) -> Generator[Event, None, None]:
        return _pulled(self._all.iter_events(number, user=user, service=service))

    def logs(
        self, number: int, stream: str = "stdout", offset: int = 0, *, follow: bool = False
    ) -> Generator[bytes, None, None]:
        return _pulled(self._all.logs(number, stream, offset, follow=follow))

    def download(
        self, number: int, path: PathLike, *, resume: bool = True, progress: Progress | None = None
    ) -> Path:
        return straight(self._all.download(number, path, resume=resume, progress=progress))

    def download_partial(self, number: int, path: PathLike, *, progress: Progress | None = None) -> Path:
        return straight(self._all.download_partial(number, path, progress=progress))

    def files(self, number: int) -> Sequence[File]:
        return straight(self._all.files(number))

    def download_file(
        self,
        number: int,
        file: str,
        path: PathLike,
        *,
        resume: bool = True,
        progress: Progress | None = None,
    ) -> Path:
        return straight(self._all.download_file(number, file, path, resume=resume, progress=progress))

    def cancel(self, number: int) -> Job:
        return straight(self._all.cancel(number))

    def rerun(self, number: int) -> Job:
        return straight(self._all.rerun(number))

    def delete(self, number: int) -> Job:
        return straight(self._all.delete(number))

    def queue(self, service: str | None = None) -> Sequence[Holder]:
        return straight(self._all.queue(service))

    def activity(self, since: datetime | None = None, service: str | None = None) -> Sequence[MinuteBody]:
        return straight(self._all.activity(since, service))

    def nodes(self) -> Sequence[Node]:
        return straight(self._all.nodes())

    def services(self) -> Sequence[Service]:
        return straight(self._all.services())

    def drain(self, node_id: str, reason: str | None = None) -> Node:
        return straight(self._all.drain(node_id, reason))

    def undrain(self, node_id: str) -> Node:
        return straight(self._all.undrain(node_id))

    def pause(self, service: str, reason: str | None = None) -> Service:
        return straight(self._all.pause(service, reason))

    def resume(self, service: str) -> Service:
        return straight(self._all.resume(service))

    def close(self) -> None:
        straight(self._all.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(source: AsyncGenerator[T, None]) -> T:
    return await anext(source)


def _pulled(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    try:
        while True:
            try:
                item = straight(_next(source))
            except StopAsyncIteration:
                return
            yield item
    finally:
        straight(_closed(source))


async def _closed(source: AsyncGenerator[T, None]) -> None:
    await source.aclose()
