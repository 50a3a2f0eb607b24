"""The orchestrator on a small disk of its own that is full, or becomes so: it says so, nothing is half."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from support.data.directories import until
from support.peers.portals import Portal, portal
from support.processes.api_server import form
from support.processes.gates import gate
from support.processes.processes import COMMAND, Place, Started, promised

MIB = 1 << 20
SIZE = 20 * MIB
FILES = 600
"""Of which the server's empty directories are 260."""
SMALL_DISK = (
    *("unshare", "-rm", "sh", "-c"),
    f'mount -t tmpfs -o size={SIZE},nr_inodes={FILES} none "$0" && exec "$@"',
)
RUN = 'name="file"; filename="run.sh"|true'


class Small:
    """An orchestrator whose ledger and jobs are on 20 MiB, with few inodes, that only it has mounted; they go
    when it ends."""

    def __init__(self, here: Place, node: str, config: str = "") -> None:
        settings = here.directory / "server.toml"
        settings.write_text(config)
        data = here.directory / "server"
        data.mkdir()
        environment = {
            "DB_PATH": str(data / "db.sqlite"),
            "DATA_PATH": str(data / "data"),
            "SERVICE_EXAMPLE_NODES": node,
        }
        command = (*SMALL_DISK, str(data), *COMMAND)
        self.server: Started = here.start(
            *("server", "--port", "0", "--config", str(settings)),
            name="server",
            command=command,
            environment=environment,
        )
        self.disk = Path(f"/proc/{self.server.pid}/root{data}")
        assert shutil.disk_usage(self.disk).total == SIZE

    def on_disk(self) -> list[Path]:
        """What there is of jobs, finished or half."""
        data = self.disk / "data"
        return [*(data / "incoming").iterdir(), *(data / "trash").iterdir(), *(data / "jobs").glob("*/*")]

    @contextmanager
    def filled(self, leaving: int = 0) -> Iterator[None]:
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.disk).free - leaving)
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def without_inodes(self) -> Iterator[None]:
        """As long as it takes nobody's place, what is held in reserve is taken too."""
        made: list[Path] = []
        with suppress(OSError):
            while True:
                path = self.disk / f"ballast-{len(made)}"
                path.touch()
                made.append(path)
        try:
            yield
        finally:
            for path in made:
                path.unlink()


@pytest.fixture
def small(here: Place) -> Small:
    return Small(here, here.node("node").url)


async def test_an_upload_that_does_not_fit_is_507_and_leaves_nothing(small: Small) -> None:
    async with portal(small.server.url) as user:
        large = b'name="file"; filename="big"|' + os.urandom(11 * MIB)
        answer = await user.post(large, 'name="file"; filename="run.sh"|rm big')
        assert answer.status_code == 201
        assert (await user.ended(answer.json()["id"]))["status"] == "Completed"
        before = small.on_disk()
        for answer in (await user.post(large, RUN), await _in_chunks(user, large, RUN)):
            assert answer.status_code == 507, answer.text
            assert answer.json()["status"] == "Unknown" and answer.json()["message"]
        assert small.on_disk() == before
        assert len(await user.statuses()) == 1
        assert (await user.run("true"))["status"] == "Completed"


async def test_results_that_do_not_fit_are_fetched_when_there_is_room(small: Small) -> None:
    async with portal(small.server.url) as user:
        with small.filled(leaving=8 * MIB):
            job = await user.upload("head -c 15M /dev/urandom > big; sha256sum big > sum")
            waiting = await user.until(job, "Running", "Submitted", saying="no space left")
            assert "fetched again later" in waiting["message"]
            assert not list((small.disk / "data").glob("jobs/*/*/result"))
            # Small ones go past it.
            assert (await user.run("echo 42 > result.txt"))["status"] == "Completed"
        end = await user.ended(job)
        assert (end["status"], end["attempt"]) == ("Completed", 1)
        found = await user.contents(job)
        assert len(found["big"]) == 15 * MIB
        assert hashlib.sha256(found["big"]).hexdigest() == found["sum"].split()[0].decode()
        assert list((small.disk / "data" / "incoming").iterdir()) == []


async def test_with_no_byte_left_nothing_is_taken_what_runs_can_be_ended_and_nothing_crashes(
    small: Small, here: Place
) -> None:
    async with portal(small.server.url) as user:
        with gate(here.directory / "gate") as shut:
            done = await user.run("echo kept > kept")
            job = await user.upload(f"echo part > part; {shut.wait}")
            await user.until(job, "Running")
            with small.filled():
                before = small.on_disk()
                for _ in range(3):
                    answer = await user.post(RUN)
                    assert answer.status_code in (503, 507), answer.text
                    assert answer.json()["id"] == 0 and answer.json()["message"]
                assert small.on_disk() == before
                assert (await user.contents(done["id"]))["kept"] == b"kept\n"
                answer = await user.http.post(f"/terminate/{job}")
                assert (answer.status_code, answer.json()["status"]) in ((200, "Killed"), (200, "Locked"))
                # On the node it has ended, whether there is room here for what it left or not.
                await until(lambda: not _scripts(here), here.directory / "node")
            end = await user.ended(job)
            assert (end["status"], end["message"]) == ("Killed", "terminated")
            assert (await user.contents(job))["part"] == b"part\n"
        assert (await user.run("true"))["status"] == "Completed"
        rows = await user.statuses()
        assert sorted(rows) == ["Completed", "Completed", "Killed"]
    assert small.on_disk() == []  # all of it is in the ledger
    assert "Traceback" not in small.server.errors()


async def test_with_no_inode_left_nothing_is_taken_and_what_ends_is_fetched_when_there_are_some(
    here: Place,
) -> None:
    small = Small(here, here.node("node").url, "small_files = 0")  # what is small needs none
    async with portal(small.server.url) as user:
        with gate(here.directory / "gate") as shut:
            done = await user.run("echo kept > kept")
            jobs = [await user.upload(f"echo part > part; {shut.wait}") for _ in range(2)]
            for job in jobs:
                await user.until(job, "Running")
            said, before = small.server.errors(), small.on_disk()
            with small.without_inodes():
                for _ in range(3):
                    answer = await user.post(RUN)
                    assert answer.status_code == 507 and answer.json()["message"], answer.text
                assert small.on_disk() == before
                assert (await user.contents(done["id"]))["kept"] == b"kept\n"
                assert (await user.http.post(f"/terminate/{jobs[0]}")).status_code == 200
                shut.open()
                for job in jobs:
                    await user.until(job, "Locked", "Running", "Submitted", saying="no space left")
        relieved = time.monotonic()
        ends = [await user.ended(job) for job in jobs]
        assert time.monotonic() - relieved < promised()
        assert [(end["status"], end["attempt"]) for end in ends] == [("Killed", 1), ("Completed", 1)]
        for job in jobs:
            assert (await user.contents(job))["part"] == b"part\n"
        assert (await user.run("true"))["status"] == "Completed"
    said = small.server.errors()[len(said) :]
    assert "Traceback" not in said and len(said.splitlines()) < 6, said


async def _in_chunks(user: Portal, *parts: str | bytes) -> httpx.Response:
    """Post a body whose length is not told beforehand."""
    body, kind = form(*parts, 'name="user_id"|1', 'name="service"|example')

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    return await user.http.post("/upload", content=pieces(), headers={"Content-Type": kind})


def _scripts(here: Place) -> list[str]:
    """What runs of jobs."""
    return [process.name() for process in here.left() if process.name() == "flock"]
