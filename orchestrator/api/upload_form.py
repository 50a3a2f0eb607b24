"""`POST /upload`: from a request's body to a job that is durable on disk and in the ledger."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from actors.domain.batch_request import (
    NOTHING_ALLOWED,
    REQUESTS,
    BatchRequest,
    make_request,
    parse_request,
)
from actors.domain.changes import JobDetails, NewJob, change_new_job
from actors.domain.ids import parse_id
from actors.domain.job import Job
from actors.domain.labels import requirement, to_labels
from actors.domain.limits import LIMITS, JobLimits, limits_from_json, limits_to_json, parse_limit, show_limit
from actors.domain.service import ServiceLimits
from actors.ports.ledger import LedgerError
from actors.ports.storage import StorageError
from actors.process.log_lines import request_id
from actors.wire.errors import BadRequest, CutOff, TooLarge
from actors.wire.files.names import PathSet, printable, safe_path
from actors.wire.http.app import PASSES, Refusal
from actors.wire.http.patience import SILENCE
from actors.wire.multipart.reader import Part, Sink, TextSink, read_parts, refuse_file_without_name
from orchestrator.access.audit import AuditEntry, entry_of
from orchestrator.access.roles import asking
from orchestrator.api.context import ApiContext
from orchestrator.api.http.query_params import is_line
from orchestrator.callbacks.allowed_hosts import NotAllowed
from orchestrator.storage.incoming import IncomingFile
from orchestrator.storage.upload import Upload

REPEATED: Final = frozenset({"tags"})
_USER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_PRIORITY: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)

# Letters of any script: people tag in their own language.
_TAG: Final = re.compile(r"[\w.:=/@+-]{1,64}")
MOST_TAGS: Final = 32
LONGEST_NAME: Final = 200
MOST_IGNORED: Final = 32
LONGEST_FIELD: Final = 4096
"""Bytes of a text field."""

FINISHING: Final = SILENCE
"""Seconds that the commit of an upload may take once it has begun, whether or not the client waits for it."""


def read_idempotency_key(sent: Sequence[str]) -> str | None:
    """The key, in all headers of that name. Raises Refusal (400) for what is none, and for more than one."""
    match sent:
        case []:
            return None
        case [key] if _IDEMPOTENCY_KEY.fullmatch(key):
            return key
        case [_]:
            why = "1 to 255 visible ASCII characters were expected"
        case several:
            why = f"{len(several)} were sent, one was expected"
    raise Refusal(400, "bad_idempotency_key", f"Idempotency-Key: {why}")


@dataclass(slots=True)
class _HashingFile:
    """A file that is hashed as it is written."""

    file: IncomingFile
    path: str
    hash: hashlib._Hash

    async def write(self, data: bytes) -> None:
        self.hash.update(data)
        await self.file.write(data)

    async def close(self) -> None:
        await self.file.close()


class _Field(TextSink):
    """A text field that is checked when all of it has come."""

    def __init__(self, name: str, check: Callable[[], Awaitable[None]]) -> None:
        super().__init__(name, LONGEST_FIELD)
        self._check = check

    async def close(self) -> None:
        await self._check()


class Uploads:
    """Takes uploads in. Any number at a time; each holds about 3 MiB at most."""

    def __init__(self, api: ApiContext) -> None:
        self._api = api
        self._under_way: set[tuple[int, str]] = set()
        self._number = 0

    async def take(
        self, content_type: str, declared: int | None, body: AsyncIterator[bytes], idempotency_key: str | None
    ) -> tuple[Job, Sequence[str]]:
        """The job that was stored, and the fields that were ignored. Raises what `to_refusal` can tell; then
        nothing is left on disk or in the ledger. `declared` is the body's length as a header claims it."""
        api = self._api
        if declared is not None and declared > api.upload_limit:
            raise TooLarge(
                f"the upload has {declared} bytes, and {api.upload_limit} are allowed (setting upload_limit)",
                api.upload_limit,
            )
        self._refuse_one_too_many()
        self._number += 1
        held: tuple[int, str] | None = None

        def hold(user_id: int) -> None:
            nonlocal held
            if idempotency_key is not None:
                self._hold(user_id, idempotency_key)
                held = user_id, idempotency_key

        async def require_room(user_id: int, service: str | None) -> None:
            await _require_room(api, user_id, service, declared, idempotency_key)

        try:
            if (user := asking.get().user) is not None:
                await require_room(user, None)
            async with api.storage.receive(declared or 0) as upload:
                form = _Form(
                    api, upload, hashed=idempotency_key is not None, on_user=hold, require_room=require_room
                )
                try:
                    await read_parts(content_type, body, limit=api.upload_limit, on_part=form.part)
                except CutOff as error:
                    raise BadRequest(error.detail) from error
                except TooLarge as error:
                    raise TooLarge(f"{error.detail} (setting upload_limit)", error.limit) from error
                new = form.job(idempotency_key)
                return await self._commit(upload, new), new.details.ignored
        finally:
            self._number -= 1
            if held is not None:
                self._under_way.discard(held)

    def _refuse_one_too_many(self) -> None:
        most = self._api.limits.uploads
        if most and self._number >= most:
            raise Refusal(
                429,
                "max_uploads",
                f"{most} uploads are under way, and no more may be (setting max_uploads)",
                headers={"Retry-After": "5"},
            )

    def _hold(self, user_id: int, key: str) -> None:
        """Refuse the same upload while it is under way. The key is its user's, so it counts from when the
        user is known."""
        if (user_id, key) in self._under_way:
            raise Refusal(
                409,
                "under_way",
                "an upload with this Idempotency-Key is still under way; ask again",
                headers=PASSES,
            )
        self._under_way.add((user_id, key))

    async def _commit(self, upload: Upload, new: NewJob) -> Job:
        # From here on it is finished, whether the client still waits or not: else nobody would know whether
        # there is a job.
        with trio.CancelScope(deadline=trio.current_time() + FINISHING, shield=True):
            files = await upload.commit(new.user_id, new.service)
            return await insert(self._api, change_new_job(new, files=files), entry_of("submit"))
        raise trio.TooSlowError


async def _require_room(
    api: ApiContext, user: int, service: str | None, declared: int | None, key: str | None
) -> None:
    """Raise LimitReached before the body is read, or as soon as it has told whose it is."""
    if api.limits.of_jobs:
        await api.ledger.queries.require_room(
            api.limits, user=user, service=service, size=declared or 0, key=key
        )


async def insert(api: ApiContext, new: NewJob, entry: AuditEntry) -> Job:
    """Have the ledger take the job. Where it does not, or had it already under the same idempotency key,
    nothing is left of what was stored."""
    try:
        job = await api.reservations.store(new, lambda job: api.ledger.insert(job, entry, api.limits))
    except LedgerError:
        await _discard(api, new)
        raise
    if job.storage_key != new.storage_key:
        await _discard(api, new)
    elif new.files is None:
        # The job is stored already; the note only helps a person who looks at the directory.
        with suppress(StorageError):
            await api.storage.note_id(new.storage_key, job.id)
    return job


async def _discard(api: ApiContext, new: NewJob) -> None:
    if new.files is None:
        await api.storage.discard(new.storage_key)


class _Form:
    """The parts of one upload. A field is looked at as soon as all of it has come, so that nobody sends a
    gigabyte after a mistake to hear of it. `on_user` is told whose it is, and may refuse it;
    `require_room` says whether there may be one more job of a user and, once that is known, a service."""

    def __init__(
        self,
        api: ApiContext,
        upload: Upload,
        *,
        hashed: bool,
        on_user: Callable[[int], None],
        require_room: Callable[[int, str | None], Awaitable[None]],
    ) -> None:
        self._api = api
        self._require_room = require_room
        self._upload = upload
        self._on_user = on_user
        self._paths = PathSet()
        self._fields: dict[str, TextSink] = {}
        self._tags: list[TextSink] = []
        self._ignored: dict[str, None] = {}
        self._hashed: list[_HashingFile] | None = [] if hashed else None
        self._user_id: int | None = None
        self._service: ServiceLimits | None = None
        """Once they were found."""

    async def part(self, part: Part) -> Sink | None:
        if part.filename is not None:
            path = safe_path(part.filename)
            self._paths.add(path)
            file = self._upload.file(path)
            if self._hashed is None:
                return file
            self._hashed.append(hashed := _HashingFile(file, path, hashlib.sha256()))
            return hashed
        if part.name not in _CHECKS:
            refuse_file_without_name(part)
            if len(self._ignored) < MOST_IGNORED:
                self._ignored[part.name[:LONGEST_NAME]] = None
            return None
        sink = _Field(part.name, partial(self._check, part.name))
        if part.name in REPEATED:
            self._tags.append(sink)
            return sink
        if part.name in self._fields:
            raise BadRequest(f"field {part.name} was sent twice")
        self._fields[part.name] = sink
        return sink

    async def _check(self, name: str) -> None:
        """Raise what it is refused with if this field, which has just come, cannot be taken, alone or beside
        others."""
        _CHECKS[name](self)
        if name == "service" and not self._is_least:
            self.limits()
            self.batch_request()
            if "max_runtime" in self._fields:
                self.max_runtime()
            self.priority()
        elif name == "user_id":
            self._on_user(self.user_id())
        elif name == "rerun_of":
            await self._require_readable()
        is_known = name in ("user_id", "service") and "user_id" in self._fields
        if is_known and self._api.limits.of_jobs:
            service = self.service().name if "service" in self._fields else None
            await self._require_room(self.user_id(), service)

    @property
    def _is_least(self) -> bool:
        """Whether no text field came so far but those that every form has."""
        return self._fields.keys() <= _NEEDED and not self._tags

    def _find_ignored(self) -> tuple[str, ...]:
        """Fields that mean nothing here, or nothing where the service allows nothing of it: a portal of 2.x
        may have used the word. The contract lets forms have any, so they are told, not refused."""
        service = self._service_so_far
        without = set[str]() if service.max_priority else {"priority"}
        without.update(() if service.batch_allowed != NOTHING_ALLOWED else REQUESTS)
        return (*self._ignored, *(name for name in self._fields if name in without))

    def _details(self) -> JobDetails:
        """What the job has besides."""
        if self._is_least:
            return JobDetails(ignored=tuple(self._ignored))
        return JobDetails(
            self.name(),
            self.tags(),
            self.callback_url(),
            requires=to_labels(self.requires()),
            rerun_of=self.rerun_of(),
            ignored=self._find_ignored(),
        )

    def job(self, key: str | None) -> NewJob:
        """What the form asks for, but for the `files`, once all of its parts were read. Raises BadRequest."""
        return NewJob(
            user_id=self.user_id(),
            service=self.service().name,
            storage_key=self._upload.key,
            size=self._upload.size,
            max_runtime=self.max_runtime(),
            limits=self.limits(),
            priority=self.priority(),
            batch_request=self.batch_request(),
            idempotency_key=key,
            fingerprint=None if key is None else self.fingerprint(),
            details=self._details(),
            request_id=request_id.get(),
        )

    def user_id(self) -> int:
        if self._user_id is None:
            self._user_id = self._read_user_id()
        return self._user_id

    def _read_user_id(self) -> int:
        text = self._text("user_id")
        if not _USER.fullmatch(text) or not -(1 << 63) <= int(text) < 1 << 63:
            raise BadRequest(
                f"user_id {printable(text)}: a whole number of at most 64 bits was expected, such as 0 or 42"
            )
        asks = asking.get()
        if asks.user not in (None, int(text)):
            raise Refusal(403, "other_user", f"user_id {text}: the token is user {asks.user}'s")
        return int(text)

    def service(self) -> ServiceLimits:
        if self._service is None:
            self._service = self._find_service()
        return self._service

    def _find_service(self) -> ServiceLimits:
        text, services = self._text("service"), self._api.services
        if text not in services:
            known = ", ".join(sorted(filter(asking.get().serves, services))) or "none"
            raise BadRequest(f"service {printable(text)} is unknown; known: {known}")
        if not asking.get().serves(text):
            raise Refusal(403, "other_service", f"service {text}: the token is not for it")
        return services[text]

    def max_runtime(self) -> float:
        """Seconds that the job may run; 0 means no limit. Not more than the service allows, if that is
        known yet."""
        service = self.service() if "service" in self._fields else None
        if "max_runtime" not in self._fields:
            return service.max_runtime if service else 0.0
        text = self._text("max_runtime")
        seconds = float(text) if _SECONDS.fullmatch(text) else 0.0
        if not seconds:
            raise BadRequest(
                f"max_runtime {printable(text)}: seconds above 0 were expected, such as 90 or 0.5"
            )
        if service and service.max_runtime and seconds > service.max_runtime:
            limit = f"at most {service.max_runtime:g} are allowed for service {service.name}"
            raise BadRequest(f"max_runtime {printable(text)}: {limit}")
        return seconds

    def priority(self) -> int:
        """Before which of the user's other jobs it goes; not more than the service allows, once that is
        known."""
        most = self._service_so_far.max_priority
        if "priority" not in self._fields or not most:
            return 0
        text = self._text("priority")
        if not _PRIORITY.fullmatch(text) or int(text) > most:
            allowed = f"a whole number from 0 to {most} is allowed for service {self.service().name}"
            raise BadRequest(f"priority {printable(text)}: {allowed}")
        return int(text)

    def limits(self) -> JobLimits:
        """What the job may use: what was asked for, not more than the service allows, if that is known yet;
        what nobody asked for as the service has it."""
        service = self.service() if "service" in self._fields else None
        if service and self._fields.keys().isdisjoint(LIMITS):
            return service.limits
        allowed = limits_to_json(service.limits) if service else {}
        asked = {}
        for name, field in LIMITS.items():
            if name not in self._fields:
                continue
            text = self._text(name)
            try:
                asked[field] = parse_limit(name, text)
            except ValueError as error:
                raise BadRequest(f"{name} {printable(text)}: {error} was expected") from None
            if service and asked[field] > (most := allowed.get(field, math.inf)):
                limit = f"at most {show_limit(field, most)} are allowed for service {service.name}"
                raise BadRequest(f"{name} {printable(text)}: {limit}")
        return limits_from_json(allowed | asked)

    def batch_request(self) -> BatchRequest:
        """What it asks of a batch system; no more than the service allows, once that is known."""
        allowance = self._service_so_far.batch_allowed
        asked = {}
        for name in REQUESTS if allowance != NOTHING_ALLOWED else ():
            if name not in self._fields:
                continue
            text = self._text(name)
            try:
                asked[name] = parse_request(name, text)
            except ValueError as error:
                raise BadRequest(f"{name} {printable(text)}: {error} was expected") from None
            if not allowance.has(name, asked[name]):
                allowed = f"allowed for service {self.service().name}: {allowance.describe(name)}"
                raise BadRequest(f"{name} {printable(text)}: {allowed}")
        return make_request(asked)

    @property
    def _service_so_far(self) -> ServiceLimits:
        """Its service, or one that allows nothing before that is known."""
        return self.service() if "service" in self._fields else _NO_SERVICE

    def requires(self) -> str:
        """Labels that the job's node has to have; "" if the field is missing or empty."""
        if "requires" not in self._fields or not (text := self._text("requires").strip()):
            return ""
        try:
            return requirement(text)
        except ValueError as error:
            raise BadRequest(f"requires {printable(text)}: {error}") from None

    def name(self) -> str | None:
        """What the job is called; an empty field is an unfilled one."""
        text = self._fields["name"].text.strip() if "name" in self._fields else ""
        if len(text) > LONGEST_NAME or not is_line(text):
            raise BadRequest(
                f"name {printable(text)}: at most {LONGEST_NAME} characters on one line were expected, "
                "and no control characters"
            )
        return text or None

    def tags(self) -> tuple[str, ...]:
        """Each once, sorted: from fields that are repeated, hold several with commas between, or both."""
        found = {tag.strip() for sink in self._tags for tag in sink.text.split(",")} - {""}
        for tag in found:
            if not _TAG.fullmatch(tag):
                raise BadRequest(
                    f"tags {printable(tag)}: 1 to 64 letters, digits and any of . _ : = / @ + - were expected"
                )
        if len(found) > MOST_TAGS:
            raise BadRequest(f"tags: {len(found)} were given, at most {MOST_TAGS} are allowed")
        return tuple(sorted(found))

    def callback_url(self) -> str | None:
        """Whom to tell of the job's end; an empty field is an unfilled one."""
        text = self._fields["callback_url"].text.strip() if "callback_url" in self._fields else ""
        if not text:
            return None
        try:
            return self._api.callbacks.url(text)
        except NotAllowed as error:
            raise BadRequest(f"callback_url {printable(text)}: {error}") from None

    def rerun_of(self) -> int | None:
        """The earlier job that it repeats; an empty field is an unfilled one."""
        text = self._fields["rerun_of"].text.strip() if "rerun_of" in self._fields else ""
        if not text:
            return None
        try:
            return parse_id(text)
        except ValueError:
            raise BadRequest(
                f"rerun_of {printable(text)}: the number of an earlier job was expected"
            ) from None

    async def _require_readable(self) -> None:
        """Raise BadRequest unless the earlier job is there, and theirs to read who upload."""
        number = self.rerun_of()
        if number is None:
            return
        earlier = await self._api.ledger.get(number)
        if earlier is None or not asking.get().sees(earlier.user_id, earlier.service):
            raise BadRequest(f"rerun_of {number}: there is no job {number}")

    def fingerprint(self) -> str:
        """The same for the same fields, as they were sent or left out, and names and bytes of the files; ""
        when nothing was hashed. What the server makes of a field that was left out may change between two
        tries."""
        if self._hashed is None:
            return ""
        fields = sorted((name, sink.text) for name, sink in self._fields.items())
        files = sorted((file.path, file.hash.hexdigest()) for file in self._hashed)
        return hashlib.sha256(json.dumps([fields, self.tags(), files]).encode()).hexdigest()

    def _text(self, name: str) -> str:
        if name not in self._fields:
            raise BadRequest(f"field {name} is missing")
        return self._fields[name].text


_NO_SERVICE: Final = ServiceLimits(name="")
_NEEDED: Final = frozenset({"user_id", "service"})

_CHECKS: Final[Mapping[str, Callable[[_Form], object]]] = {
    "user_id": _Form.user_id,
    "service": _Form.service,
    "max_runtime": _Form.max_runtime,
    "priority": _Form.priority,
    **dict.fromkeys(LIMITS, _Form.limits),
    **dict.fromkeys(REQUESTS, _Form.batch_request),
    "requires": _Form.requires,
    "name": _Form.name,
    "tags": _Form.tags,
    "callback_url": _Form.callback_url,
    "rerun_of": _Form.rerun_of,
}
"""Every field that is read, and what raises BadRequest for a value that cannot be taken."""
