"""A portal's side of a running orchestrator: upload, wait, fetch. Nothing in it polls."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, cast

import httpx
import trio
from support.processes.api_server import form

OVER: Final = frozenset({"Completed", "Failed", "Invalid", "Killed", "Cleaned"})
PATIENCE: Final = 60.0


class Portal:
    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self.http = http

    async def upload(
        self,
        script: str | bytes | None,
        *,
        user: int = 1,
        service: str = "example",
        files: Mapping[str, bytes] | None = None,
        requires: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> int:
        """Post a job, with `fields` beside those of every job; its id."""
        given = dict(files or {})
        if script is not None:
            given["run.sh"] = script.encode() if isinstance(script, str) else script
        parts = [f'name="file"; filename="{name}"|'.encode() + data for name, data in given.items()]
        parts += [f'name="{name}"|{value}'.encode() for name, value in (fields or {}).items()]
        if requires:
            parts.append(f'name="requires"|{requires}'.encode())
        answer = await self.post(*parts, user=user, service=service)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    async def post(self, *parts: str | bytes, user: int = 1, service: str = "example") -> httpx.Response:
        """Each part: what follows `form-data; `, a bar, the body."""
        body, kind = form(*parts, f'name="user_id"|{user}', f'name="service"|{service}')
        return await self.http.post("/upload", content=body, headers={"Content-Type": kind})

    async def run(self, script: str | bytes | None, **how: Any) -> dict[str, Any]:
        """A job's end."""
        return await self.ended(await self.upload(script, **how))

    async def job(self, number: int, query: str = "") -> dict[str, Any]:
        return await self.json(f"/v1/jobs/{number}{query}")

    async def ended(self, number: int, within: float = PATIENCE) -> dict[str, Any]:
        with trio.fail_after(within):
            while True:
                job = await self.job(number, "?wait=30&until=ended")
                if job["status"] in OVER:
                    return job

    async def until(self, number: int, *statuses: str, saying: str = "") -> dict[str, Any]:
        """The job once it has one of these statuses and its message has `saying` in it."""
        with trio.fail_after(PATIENCE):
            job = await self.job(number)
            while job["status"] not in statuses or saying not in job["message"]:
                assert job["status"] not in OVER, job
                job = await self.job(number, f"?wait=1&after={job['version']}")
            return job

    async def history(self, number: int) -> list[dict[str, Any]]:
        return cast(list[dict[str, Any]], (await self.json(f"/v1/jobs/{number}/history"))["items"])

    async def log(self, number: int, stream: str = "stdout") -> bytes:
        return (await self.get(f"/v1/jobs/{number}/logs?stream={stream}")).content

    async def zip(self, path: str | int) -> zipfile.ZipFile:
        """The zip at a path, or a job's results; every member's sum is right."""
        if isinstance(path, int):
            path = f"/v1/jobs/{path}/results"
        answer = await self.get(path)
        assert answer.headers["content-type"] == "application/zip", answer.text
        archive = zipfile.ZipFile(io.BytesIO(answer.content))
        assert archive.testzip() is None
        return archive

    async def contents(self, path: str | int) -> dict[str, bytes]:
        archive = await self.zip(path)
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}

    async def json(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get(path)).json()
        return found

    async def get(self, path: str) -> httpx.Response:
        answer = await self.http.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer

    async def statuses(self) -> Sequence[str]:
        """Of all jobs, newest first."""
        return [job["status"] for job in (await self.json("/v1/jobs?limit=500"))["items"]]


@asynccontextmanager
async def portal(url: str) -> AsyncIterator[Portal]:
    # Nothing is encrypted here: what authorities there are need not be read each time.
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=PATIENCE) as http:
        yield Portal(url, http)


def seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
