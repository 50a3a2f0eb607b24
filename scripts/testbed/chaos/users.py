"""The users of a chaos run: each uploads its jobs, asks for the end of some, waits for all and takes the
results home. Whatever is not answered is asked again, except an upload that has no key to be known by."""

from __future__ import annotations

import hashlib
import io
import random
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from testbed.chaos.diary import Diary
from testbed.chaos.jobs import ChaosJob
from testbed.cluster import SERVICE
from testbed.portal import ENDED

WAIT_SECONDS: Final = 10
TIMEOUT: Final = 20.0
BUSY: Final = frozenset({409, 503})
"""Answers of an orchestrator that wants to be asked again: under way, stopping, or short of descriptors."""
FULL: Final = 507


@dataclass(slots=True)
class Outcome:
    """What became of one job as its user knows it. `number` is None while no upload of it was answered;
    `told` is the job as the orchestrator described it when it had ended, `found` the SHA-256 of what the
    results held, `zip_sum` that of the zip itself, `broken` what is wrong with it."""

    job: ChaosJob
    number: int | None = None
    unanswered: int = 0
    told: dict[str, Any] | None = None
    found: dict[str, str] = field(default_factory=dict)
    zip_sum: str = ""
    broken: str = ""


class Front:
    """Where the orchestrator is now, and the moment when an upload begins."""

    def __init__(self) -> None:
        self.url = ""
        self._up = trio.Event()
        self._upload = trio.Event()

    def is_up(self, url: str) -> None:
        self.url = url
        self._up.set()

    def is_down(self) -> None:
        if self._up.is_set():  # whoever waits, waits for the one that is not set
            self._up = trio.Event()

    async def up(self) -> str:
        while not self._up.is_set():
            await self._up.wait()
        return self.url

    def upload_begins(self) -> None:
        self._upload.set()
        self._upload = trio.Event()

    async def next_upload(self) -> None:
        await self._upload.wait()


class User:
    """One user with its jobs. `ended` is called for each that has ended, or that nobody knows of."""

    def __init__(
        self, outcomes: Sequence[Outcome], front: Front, directory: Path, diary: Diary, seed: int
    ) -> None:
        self._outcomes = sorted(outcomes, key=lambda outcome: outcome.job.at)
        self._front = front
        self._directory = directory
        self._diary = diary
        self._rng = random.Random(f"{seed}/user {outcomes[0].job.user}")

    async def run(self, began: float, ended: Callable[[], None]) -> None:
        timeout = httpx.Timeout(TIMEOUT, read=WAIT_SECONDS + TIMEOUT)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as self._client:  # noqa: SIM117
            async with trio.open_nursery() as nursery:
                uploaded: dict[int, trio.Event] = {each.job.serial: trio.Event() for each in self._outcomes}
                nursery.start_soon(self._wait_for_all, uploaded, ended)
                for outcome in self._outcomes:
                    await trio.sleep_until(began + outcome.job.at)
                    await self._upload(outcome)
                    uploaded[outcome.job.serial].set()
                    if outcome.job.terminate_after is not None and outcome.number is not None:
                        nursery.start_soon(self._terminate, outcome)

    async def _upload(self, outcome: Outcome) -> None:
        job = outcome.job
        content = await trio.to_thread.run_sync(job.files, self._directory)
        headers = {"Idempotency-Key": job.idempotency_key} if job.with_key else {}
        while True:
            url = await self._front.up()
            self._front.upload_begins()
            try:
                answer = await self._client.post(
                    f"{url}/upload",
                    headers=headers,
                    data={"user_id": str(job.user), "service": SERVICE},
                    files=[("file", (name, data)) for name, data in content.items()],
                )
            except httpx.HTTPError as error:
                outcome.unanswered += 1
                self._diary.note(f"upload of serial {job.serial} was not answered: {error!r}")
                if not job.with_key and not isinstance(error, httpx.ConnectError):
                    return
            else:
                if answer.status_code == 201:
                    outcome.number = int(answer.json()["id"])
                    return
                if not self._is_busy(answer, f"upload of serial {job.serial}"):
                    self._diary.wrong(f"upload of serial {job.serial}: {_said(answer)}")
                    return
            await self._pause()

    async def _terminate(self, outcome: Outcome) -> None:
        assert outcome.job.terminate_after is not None
        await trio.sleep(outcome.job.terminate_after)
        await self._ask_for_end(outcome)

    async def ask_for_end_once(self, outcome: Outcome) -> None:
        """The same for a job that its user does not know of. Not beside `run`."""
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as self._client:
            await self._ask_for_end(outcome)

    async def _ask_for_end(self, outcome: Outcome) -> None:
        while True:
            url = await self._front.up()
            try:
                answer = await self._client.post(f"{url}/terminate/{outcome.number}")
            except httpx.HTTPError as error:
                self._diary.note(f"terminate of job {outcome.number} was not answered: {error!r}")
            else:
                if answer.status_code in (200, 409):
                    return
                if not self._is_busy(answer, f"terminate of job {outcome.number}"):
                    self._diary.wrong(f"terminate of job {outcome.number}: {_said(answer)}")
                    return
            await self._pause()

    async def _wait_for_all(self, uploaded: dict[int, trio.Event], ended: Callable[[], None]) -> None:
        for outcome in self._outcomes:
            await uploaded[outcome.job.serial].wait()
            if outcome.number is not None:
                outcome.told = await self._until_ended(outcome.number)
                if outcome.told is not None:
                    await self._take_home(outcome)
            ended()

    async def _until_ended(self, number: int) -> dict[str, Any] | None:
        while True:
            answer = await self._get(f"/v1/jobs/{number}?wait={WAIT_SECONDS}&until=ended")
            if answer.status_code != 200:
                self._diary.wrong(f"job {number}: {_said(answer)}")
                return None
            job: dict[str, Any] = answer.json()
            if job["status"] in ENDED:
                return job

    async def _take_home(self, outcome: Outcome) -> None:
        assert outcome.told is not None
        number = outcome.number
        completed = outcome.told["status"] == "Completed"
        answer = await self._get(f"/download/{number}" if completed else f"/v1/jobs/{number}/results")
        if answer.status_code != 200:
            outcome.broken = _said(answer)
            return
        content = answer.content
        outcome.zip_sum = hashlib.sha256(content).hexdigest()
        outcome.found, outcome.broken = await trio.to_thread.run_sync(_checksums, content)

    async def _get(self, path: str) -> httpx.Response:
        """The first answer that does not ask to be asked again."""
        while True:
            url = await self._front.up()
            try:
                answer = await self._client.get(url + path)
                if not self._is_busy(answer, f"GET {path}"):
                    return answer
                self._diary.note(f"GET {path}: {_said(answer)}")
            except httpx.HTTPError as error:
                self._diary.note(f"GET {path} was not answered: {error!r}")
            await self._pause()

    def _is_busy(self, answer: httpx.Response, what: str) -> bool:
        """Whether it is to be asked again. A disk without room is remembered: it is so at times only."""
        if answer.status_code == FULL:
            self._diary.refused.append((time.time(), what))
        return answer.status_code in BUSY or answer.status_code == FULL

    async def _pause(self) -> None:
        await trio.sleep(self._rng.uniform(0.05, 0.3))


def _checksums(content: bytes) -> tuple[dict[str, str], str]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                name: hashlib.sha256(archive.read(name)).hexdigest()
                for name in archive.namelist()
                if not name.endswith("/")
            }, ""
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return {}, f"no good zip: {error}"


def _said(answer: httpx.Response) -> str:
    return f"answered {answer.status_code}: {answer.text[:300]}"
