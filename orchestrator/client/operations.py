"""What can be asked of an orchestrator, once for every kind of client."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from actors.domain.ids import MAX_ID
from actors.wire.multipart.writer import DataPart, MultipartBody
from orchestrator.client import download, streams
from orchestrator.client.batch import JobRequest, submit_many
from orchestrator.client.errors import BadInput, ClientError
from orchestrator.client.files import Files, PathLike, parts
from orchestrator.client.requests import Exchange, parse
from orchestrator.client.retries import Retries
from orchestrator.client.streams import Event
from orchestrator.client.transport import Call, Progress, Wire
from orchestrator.contract.batches import Batch
from orchestrator.contract.bodies import (
    Action,
    AuditBody,
    File,
    Holder,
    Job,
    MinuteBody,
    NewTokenBody,
    Node,
    ReloadedBody,
    Service,
    TokenBody,
    TransitionBody,
    Trouble,
    UsageBody,
)
from orchestrator.contract.inputs import InputChanges
from orchestrator.contract.lists import JobOrder

PAGE: Final = 500
"""Items of a list that one request brings."""
FILES: Final = 10_000
"""The same, of files."""
UPLOADED: Final = 300.0
"""Seconds that the answer to an upload may take: by then all of it is on the server's disk."""

_KEY: Final = re.compile(r"[!-~]{1,255}")


class Operations:
    """All of these raise ClientError. Async generators that are left early are to be closed
    (`contextlib.aclosing`)."""

    def __init__(self, wire: Wire, retries: Retries) -> None:
        self._wire = wire
        self._exchange = Exchange(wire, retries)

    async def submit(
        self,
        files: Files,
        *,
        service: str | None = None,
        user: int,
        name: str | None = None,
        tags: Iterable[str] = (),
        max_runtime: float | None = None,
        memory: int | str | None = None,
        cpu_time: float | None = None,
        processes: int | None = None,
        file_size: int | str | None = None,
        open_files: int | None = None,
        disk: int | str | None = None,
        requires: str | None = None,
        priority: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        cpus: int | None = None,
        gpus: int | str | None = None,
        callback_url: str | None = None,
        rerun_of: int | None = None,
        idempotency_key: str | None = None,
        progress: Progress | None = None,
    ) -> Job:
        """Hand in a job. `files` are paths of files and directories, or what each file is called in the job
        with its path or bytes; one directory alone is the job's directory. `service` may be left out where
        there is one only. `max_runtime` and `cpu_time` are seconds; `memory`, `file_size` and `disk` bytes,
        or as "4G"; none of the limits may be above the service's. `requires` are labels of the node, as
        "gpu=a100,ssd"; of the user's jobs those with a higher `priority` go first. `partition`, `account`,
        `qos`, `cpus` and `gpus` (2 or "a100:2") are asked of the batch system that runs it, within what the
        service allows. `callback_url` is told when the job has ended. `rerun_of` is the earlier job that it
        repeats with changes. However often it is sent, it becomes one job: two calls do so too with the same
        `idempotency_key`."""
        if service is None:
            service = await self._only_service()
        fields = {
            "user_id": str(user),
            "service": service,
            "name": name,
            "tags": ",".join(_texts("tags", tags)) or None,
            "max_runtime": _seconds("max_runtime", max_runtime),
            "memory": _text(memory),
            "cpu_time": _seconds("cpu_time", cpu_time),
            "processes": _text(processes),
            "file_size": _text(file_size),
            "open_files": _text(open_files),
            "disk": _text(disk),
            "requires": requires,
            "priority": _text(priority),
            "partition": partition,
            "account": account,
            "qos": qos,
            "cpus": _text(cpus),
            "gpus": _text(gpus),
            "callback_url": callback_url,
            "rerun_of": None if rerun_of is None else str(_id(rerun_of)),
        }
        body = await self._wire.thread(lambda: _form(files, fields))
        key = secrets.token_hex(16) if idempotency_key is None else _key(idempotency_key)
        call = Call(
            "POST",
            "/upload",
            headers={"Idempotency-Key": key},
            body=body,
            silence=UPLOADED,
            progress=progress,
        )
        return await self.job(int((await self._exchange.json(call))["id"]))

    async def submit_many(
        self, requests: Iterable[JobRequest], *, at_once: int = 8, idempotency_key: str | None = None
    ) -> Sequence[Job | ClientError]:
        """Hand in a job for each request, `at_once` of them at a time. In the order of the requests the job,
        or the error why there is none: one that is refused hinders no other. When nobody answers any more,
        the rest are not tried. The same requests with the same `idempotency_key` become the same jobs,
        so a batch that broke off may be sent again. Raises ClientError where none can be tried."""
        given = list(requests)
        if any(request.get("service") is None for request in given):
            service = await self._only_service()
            given = [
                request if request.get("service") is not None else {**request, "service": service}
                for request in given
            ]
        return await submit_many(self._wire, self.submit, given, at_once, idempotency_key)

    async def job(self, number: int) -> Job:
        """A job as it is now."""
        return parse(Job, await self._get(f"/v1/jobs/{_id(number)}"))

    async def wait(self, number: int, timeout: float | None = None) -> Job:
        """A job once it has ended. Raises TimedOut after `timeout` seconds."""
        return await streams.wait(self._exchange, _id(number), timeout)

    async def wait_all(
        self, numbers: Iterable[int], timeout: float | None = None
    ) -> AsyncGenerator[Job, None]:
        """Each of these jobs once it has ended, in their order. Raises TimedOut, of the first that has not,
        when `timeout` seconds for all of them are over."""
        until = None if timeout is None else time.monotonic() + timeout
        for number in [_id(one) for one in numbers]:
            left = None if until is None else max(0.0, until - time.monotonic())
            yield await streams.wait(self._exchange, number, left)

    async def create_batch(
        self, jobs: Iterable[int], callback_url: str, *, idempotency_key: str | None = None
    ) -> Batch:
        """Have `callback_url` told once all of these jobs have ended, by one callback: at once if they have.
        However often it is sent, it becomes one batch: two calls do so too with the same `idempotency_key`.
        Raises NotFound that names them where there are no such jobs."""
        order = {"jobs": [_id(number) for number in jobs], "callback_url": callback_url}
        key = secrets.token_hex(16) if idempotency_key is None else _key(idempotency_key)
        call = Call("POST", "/v1/batches", headers={"Idempotency-Key": key}, json=order)
        return parse(Batch, await self._exchange.json(call))

    async def batch(self, batch_id: str) -> Batch:
        """A batch as it is now."""
        return parse(Batch, await self._get(f"/v1/batches/{quote(batch_id, safe='')}"))

    async def jobs(
        self,
        *,
        user: int | None = None,
        service: str | None = None,
        status: str | Sequence[str] | None = None,
        name: str | None = None,
        tag: str | None = None,
        node: str | None = None,
        search: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        ended_since: datetime | None = None,
        oldest_first: bool = False,
        order: JobOrder | None = None,
        estimates: bool = False,
        limit: int | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Jobs that fit all of these, the newest first, or the oldest, or in another `order`: with "user"
        those of one user together, the newest of each first. `status` is one or several, any of
        which will do, "active" for all that are not over, "ended" for all that are; `node` is where they are
        now; `search` a part of the name or of a tag, or the number of the job or of its user; they came at
        `since` or later, and before `until`; and have ended at `ended_since` or later. With `estimates` also
        when those begin and end that are not over, as `job` always tells."""
        query = _query(
            user=user,
            service=service,
            status=status
            if status is None or isinstance(status, str)
            else ",".join(_texts("status", status)) or None,
            name=name,
            tag=tag,
            node=node,
            search=search,
            since=_moment("since", since),
            until=_moment("until", until),
            ended_since=_moment("ended_since", ended_since),
            order=_order(oldest_first, order),
        )
        if estimates:
            query["estimates"] = "1"
        left = limit
        while left is None or left > 0:
            query["limit"] = str(PAGE if left is None else min(left, PAGE))
            page = await self._get("/v1/jobs", **query)
            for item in page["items"]:
                yield parse(Job, item)
            if page["next"] is None:
                return
            left = None if left is None else left - len(page["items"])
            query["cursor"] = str(page["next"])

    async def history(self, number: int) -> Sequence[TransitionBody]:
        """Each status that the job has had: `at`, `from`, `to`, `reason`, `node`, `attempt`."""
        return await self._items(f"/v1/jobs/{_id(number)}/history")

    def iter_events(
        self, number: int | None = None, *, user: int | None = None, service: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """What happens to a job until it has ended, or for ever to all jobs, or to those of a user and of a
        service; nothing is left out and nothing comes twice when the connection breaks or the orchestrator is
        started anew."""
        if number is not None and (user, service) != (None, None):
            raise BadInput("name a job, or a user and a service, not both")
        query = _query(user=user, service=service)
        return streams.events(self._exchange, None if number is None else _id(number), query)

    def logs(
        self,
        number: int,
        stream: str = "stdout",
        offset: int = 0,
        *,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of "stdout" or "stderr" from `offset` on, or the last `tail` lines; with `follow` also as
        they are written, until the job has ended."""
        if tail is not None and (type(tail) is not int or tail < 0 or offset):
            raise BadInput(f"tail is a number of lines, without an offset beside it, not {tail}")
        return streams.log(self._exchange, _id(number), stream, offset, tail=tail, follow=follow)

    async def download(
        self, number: int, path: PathLike, *, resume: bool = True, progress: Progress | None = None
    ) -> Path:
        """The zip of an ended job into the file `path`. What came of it stays when this fails, and the next
        call goes on there, unless `resume` is False."""
        call = Call("GET", f"/v1/jobs/{_id(number)}/results")
        return await download.download(self._exchange, call, Path(path), resume=resume, progress=progress)

    async def download_partial(
        self, number: int, path: PathLike, *, progress: Progress | None = None
    ) -> Path:
        """The zip of a job's directory as it is now, wherever it is."""
        call = Call("GET", f"/download_partial/{_id(number)}")
        return await download.download(self._exchange, call, Path(path), resume=False, progress=progress)

    async def files(self, number: int) -> Sequence[File]:
        """What is in a job's directory, wherever it is now, by path."""
        query = {"limit": str(FILES)}
        found: list[File] = []
        while True:
            page = await self._get(f"/v1/jobs/{_id(number)}/files", **query)
            found += [parse(File, item) for item in page["items"]]
            if page["next"] is None:
                return found
            query["cursor"] = str(page["next"])

    async def download_file(
        self, number: int, file: str, path: PathLike, *, resume: bool = True, progress: Progress | None = None
    ) -> Path:
        """One of them, by its `path` in the list, into the file `path`."""
        call = Call("GET", f"/v1/jobs/{_id(number)}/files/{quote(file)}")
        return await download.download(self._exchange, call, Path(path), resume=resume, progress=progress)

    async def cancel(self, number: int) -> Job:
        """Have a job killed; as it is then: Killed, or Locked while that goes on. Raises Refused (409) for
        one that has ended otherwise."""
        await self._post(f"/terminate/{_id(number)}")
        return await self.job(number)

    async def rerun(self, number: int) -> Job:
        """A new job with the files that this one began with."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        call = Call("POST", f"/v1/jobs/{_id(number)}/rerun", headers=key, silence=UPLOADED)
        return parse(Job, await self._exchange.json(call))

    async def input_changes(self, number: int) -> InputChanges:
        """How the inputs of a job differ from those of the job that it repeats. Raises NotFound where it
        repeats none, and where the files of one of both are gone."""
        return parse(InputChanges, await self._get(f"/v1/jobs/{_id(number)}/input-changes"))

    async def delete(self, number: int) -> Job:
        """Let the data of an ended job go now; the job as it is then, Cleaned."""
        return parse(Job, await self._exchange.json(Call("DELETE", f"/v1/jobs/{_id(number)}")))

    async def queue(self, service: str | None = None) -> Sequence[Holder]:
        """Who has jobs that wait or are under way, those with most waiting first."""
        query = _query(service=service, limit=PAGE)
        found: list[Holder] = []
        while True:
            page = await self._get("/v1/queue", **query)
            found += [parse(Holder, item) for item in page["items"]]
            if page["next"] is None:
                return found
            query["cursor"] = str(page["next"])

    async def troubles(self) -> Sequence[Trouble]:
        """What is wrong now, in words, the worst first."""
        return [parse(Trouble, item) for item in await self._items("/v1/troubles")]

    async def activity(
        self, since: datetime | None = None, service: str | None = None
    ) -> Sequence[MinuteBody]:
        """What each minute brought, by service: `at`, `submitted`, `ended` and more. Of the last hour, or
        from `since` on; kept for a day."""
        return await self._items("/v1/activity", **_query(since=_moment("since", since), service=service))

    async def nodes(self) -> Sequence[Node]:
        """All nodes."""
        return [parse(Node, item) for item in await self._items("/v1/nodes")]

    async def node(self, node_id: str) -> Node:
        """One node, by its id or its name. Raises NotFound, also for one that has left."""
        return parse(Node, await self._exchange.json(Call("GET", f"/v1/nodes/{quote(node_id, safe='')}")))

    async def services(self) -> Sequence[Service]:
        """All services, by name."""
        return [parse(Service, item) for item in await self._items("/v1/services")]

    async def drain(self, node_id: str, reason: str | None = None) -> Node:
        """Give a node no new jobs; those that it has go on."""
        body = {} if reason is None else {"reason": reason}
        return parse(Node, await self._post(f"/v1/nodes/{quote(node_id, safe='')}/drain", body))

    async def unpair(self, node_id: str) -> None:
        """Have the secret with a node forgotten, which has lost its own: it may agree on another."""
        await self._exchange.json(Call("DELETE", f"/v1/nodes/{quote(node_id, safe='')}/secret"))

    async def undrain(self, node_id: str) -> Node:
        """Give it jobs again."""
        return parse(Node, await self._post(f"/v1/nodes/{quote(node_id, safe='')}/undrain"))

    async def pause(self, service: str, reason: str | None = None) -> Service:
        """Begin no more jobs of a service; what is under way goes on."""
        body = {} if reason is None else {"reason": reason}
        return parse(Service, await self._post(f"/v1/services/{quote(service, safe='')}/pause", body))

    async def resume(self, service: str) -> Service:
        """Begin its jobs again."""
        return parse(Service, await self._post(f"/v1/services/{quote(service, safe='')}/resume"))

    async def reload(self) -> ReloadedBody:
        """Have the server read its settings again: what has `changed`, and what changes `after_restart` only.
        Raises Refused (409) if they have mistakes; then nothing has changed."""
        found: ReloadedBody = await self._post("/v1/reload")
        return found

    async def log_level(self) -> str:
        """What the server's log says at least now: debug, info, warning or error."""
        return str((await self._get("/v1/log-level"))["level"])

    async def set_log_level(self, level: str) -> None:
        """Have the server's log say what is of this level at least, until it is started anew or reads its
        settings again: debug, info, warning or error."""
        await self._post("/v1/log-level", {"level": level})

    async def tokens(self) -> Sequence[TokenBody]:
        """The tokens that hold, without their secrets."""
        return await self._items("/v1/tokens")

    async def create_token(
        self,
        role: str,
        *,
        services: Sequence[str] = (),
        user: int | None = None,
        expires_in: float | None = None,
        name: str | None = None,
        once: bool = False,
        max_slots: int | None = None,
        sources: Sequence[str] = (),
    ) -> NewTokenBody:
        """A new token with its `secret`, which is told this once; it expires in that many seconds. The last
        three are of the role node: it is for one node, of at most so many slots, that joins from one of
        these networks."""
        body = {"role": role, "services": list(services), "user": user, "expires_in": expires_in}
        if role == "node":
            body |= {"once": once, "max_slots": max_slots, "sources": list(sources)}
        made: NewTokenBody = await self._post("/v1/tokens", body | ({} if name is None else {"name": name}))
        return made

    async def revoke_token(self, token_id: str) -> None:
        """Have a token refused from now on."""
        await self._exchange.json(Call("DELETE", f"/v1/tokens/{quote(token_id, safe='')}"))

    async def link(
        self, number: int, file: str | None = None, *, view: bool = False, expires_in: float = 3600.0
    ) -> str:
        """A URL by which anybody gets the results of a job, or one file by its `path` in the list, for so
        many seconds, at most 7 days; until the token that this client has is revoked. With `view` the file is
        shown in a page, and not saved."""
        body: dict[str, Any] = {"file": file, "expires_in": expires_in}
        if view:
            body["view"] = True
        url = str((await self._post(f"/v1/jobs/{_id(number)}/links", body))["url"])
        return f"{self._wire.url}{url}" if url.startswith("/") else url

    async def audit(
        self,
        *,
        who: str | None = None,
        job: int | None = None,
        node: str | None = None,
        action: Action | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[AuditBody, None]:
        """Who did what, the newest first, of what fits all of these: the name of a token or a person, a job,
        a node's id, what was done, a time from which on."""
        query = _query(who=who, job=job, node=node, action=action, since=_moment("since", since))
        left = limit
        while left is None or left > 0:
            query["limit"] = str(PAGE if left is None else min(left, PAGE))
            page = await self._get("/v1/audit", **query)
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            left = None if left is None else left - len(page["items"])
            query["cursor"] = str(page["next"])

    async def usage(
        self,
        *,
        first: str | None = None,
        last: str | None = None,
        user: int | None = None,
        service: str | None = None,
    ) -> AsyncGenerator[UsageBody, None]:
        """What the jobs used that have ended, by month (UTC, as "2026-11"), user and service, in the order of
        these; from the month `first` to the month `last`, both of them in."""
        query = {"limit": str(PAGE), **_query(to=last, user=user, service=service)}
        if first is not None:
            query["from"] = first
        while True:
            page = await self._get("/v1/usage", **query)
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            query["cursor"] = str(page["next"])

    async def close(self) -> None:
        """Close its connections."""
        await self._wire.close()

    # ------------------------------------------------------------------ inside

    async def _get(self, path: str, **query: str) -> Any:
        return await self._exchange.json(Call("GET", path, query))

    async def _post(self, path: str, body: Any = None) -> Any:
        return await self._exchange.json(Call("POST", path, json=body))

    async def _items(self, path: str, **query: str) -> Sequence[Any]:
        items: Sequence[Any] = (await self._get(path, **query))["items"]
        return items

    async def _only_service(self) -> str:
        names = [service.name for service in await self.services()]
        if len(names) != 1:
            raise BadInput(f"name a service; there are {', '.join(names) or 'none'}")
        return names[0]


def _moment(name: str, at: datetime | None) -> str | None:
    if at is None:
        return None
    if not isinstance(at, datetime):
        raise BadInput(f"{name} is a datetime, not {repr(at)[:100]}")
    return at.astimezone(UTC).isoformat()


def _query(**wanted: object) -> dict[str, str]:
    return {name: str(value) for name, value in wanted.items() if value is not None}


def _id(number: int) -> int:
    if type(number) is not int or not 0 < number <= MAX_ID:
        raise BadInput(f"{repr(number)[:100]} is no job; ids are whole numbers from 1 to {MAX_ID}")
    return number


def _order(oldest_first: bool, order: JobOrder | None) -> str | None:
    if oldest_first and order not in (None, "oldest"):
        raise BadInput(f"oldest_first is one order, {order} another")
    return "oldest" if oldest_first else order


def _seconds(name: str, number: float | None) -> str | None:
    if number is None:
        return None
    if not isinstance(number, int | float):
        raise BadInput(f"{name} is a number of seconds, not {repr(number)[:100]}")
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _texts(name: str, given: Iterable[str]) -> list[str]:
    # A text alone would be taken for its letters.
    if isinstance(given, Iterable) and not isinstance(given, str):
        found = list(given)
        if all(isinstance(one, str) for one in found):
            return found
    raise BadInput(f"{name} is a list of texts, not {repr(given)[:100]}")


def _key(given: str) -> str:
    if not isinstance(given, str) or not _KEY.fullmatch(given):
        raise BadInput(f"an idempotency_key is 1 to 255 visible ASCII characters, not {repr(given)[:100]}")
    return given


def _text(given: int | str | None) -> str | None:
    return None if given is None else str(given)


def _form(given: Files, fields: Mapping[str, str | None]) -> MultipartBody:
    files = parts(given)
    if not any(file.filename == "run.sh" for file in files):
        raise BadInput("there is no run.sh among the files; a job is a bash script of that name")
    # The fields come first: a refusal then comes before the files.
    texts = [
        DataPart(name, None, None, _encode(name, value))
        for name, value in fields.items()
        if value is not None
    ]
    return MultipartBody([*texts, *files])


def _encode(name: str, value: str) -> bytes:
    if not isinstance(value, str):
        raise BadInput(f"{name} is a text, not {repr(value)[:100]}")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{name} is no text that can be sent: {value[:100]!r}") from None
