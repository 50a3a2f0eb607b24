"""A server that has run out of something, while jobs are in each state: what it cannot do it refuses or does
later, no job is lost by it, and all goes on within 5 s of relief."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import trio
from support.data.directories import until
from support.peers.portals import portal
from support.processes.gates import gate
from support.processes.processes import Place, Started, limited, own_place, promised

RUN = 'name="file"; filename="run.sh"|true'
LINES = 8
"""That a want may add to the log: one a minute for each reason."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A server with one node that runs three jobs at a time."""

    server: Started
    node: Started
    here: Place

    @property
    def data(self) -> Path:
        return self.here.directory / "server" / "data"

    def left(self) -> list[Path]:
        """What is half, or on its way out."""
        return [*(self.data / "incoming").iterdir(), *(self.data / "trash").iterdir()]

    def check_log(self, before: str) -> None:
        said = self.server.errors()[len(before) :]
        assert "Traceback" not in said and len(said.splitlines()) <= LINES, said


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with own_place("system") as here:
        node = here.node("node", "--slots", "3")
        # What is small needs neither a descriptor nor a thread of the storage.
        yield Pair(here.server(nodes=[node.url], config="small_files = 0"), node, here)


async def test_without_descriptors_jobs_in_each_state_wait(pair: Pair) -> None:
    async with portal(pair.server.url) as user:
        done = await user.run("echo kept > kept")
        with gate(pair.here.directory / "gate") as shut:
            running = await user.upload(f"echo part > part; {shut.wait}")
            await user.until(running, "Running")
            assert (await user.http.post("/v1/services/example/pause")).status_code == 200
            queued = await user.upload("cat in", files={"in": b"given"})
            terminated = await user.upload("true")
            said = pair.server.errors()
            open_before = psutil.Process(pair.server.pid).num_fds()
            with limited(pair.server.pid, resource.RLIMIT_NOFILE, 3):
                shut.open()
                await user.until(running, "Running", "Submitted", saying="fetched again later")
                answer = await user.http.post(f"/terminate/{terminated}")
                assert answer.status_code == 200, answer.text
                assert (await user.ended(terminated))["status"] == "Killed"
                assert (await user.http.post("/v1/services/example/resume")).status_code == 200
                await user.until(queued, "Processing")
                for _ in range(3):
                    answer = await user.post(RUN)
                    assert answer.status_code == 503 and "Too many open files" in answer.text, answer.text
                answer = await user.http.get(f"/v1/jobs/{done['id']}/results")
                assert answer.status_code == 503, answer.text
            relieved = time.monotonic()
            for number in (running, queued):
                end = await user.ended(number)
                assert (end["status"], end["attempt"]) == ("Completed", 1), end
            assert time.monotonic() - relieved < promised()
            assert (await user.contents(running))["part"] == b"part\n"
            assert await user.log(queued) == b"given"
            assert (await user.run("true"))["status"] == "Completed"
            await until(lambda: pair.left() == [], pair.data / "incoming")
        pair.check_log(said)
    # Connections to the node are kept open for a while.
    assert psutil.Process(pair.server.pid).num_fds() <= open_before + 2


async def test_without_memory_for_a_thread_nothing_is_lost_and_nobody_hears_of_a_defect(pair: Pair) -> None:
    answers: list[httpx.Response] = []
    async with portal(pair.server.url) as user:
        with gate(pair.here.directory / "gate") as shut:
            running = await user.upload(f"echo part > part; {shut.wait}")
            await user.until(running, "Running")
            said, before = pair.server.errors(), len(await user.statuses())
            size = psutil.Process(pair.server.pid).memory_info().vms
            with limited(pair.server.pid, resource.RLIMIT_AS, size + (2 << 20)):
                shut.open()

                async def post() -> None:
                    answers.append(await user.post(RUN))

                async with trio.open_nursery() as nursery:
                    for _ in range(40):
                        nursery.start_soon(post)
            relieved = time.monotonic()
            assert (await user.ended(running))["status"] == "Completed"
            assert time.monotonic() - relieved < promised()
            accepted = [answer.json()["id"] for answer in answers if answer.status_code == 201]
            refused = [answer for answer in answers if answer.status_code != 201]
            # Threads that are there already go on; what needs another one is refused.
            assert all(a.status_code == 503 and a.json()["message"] for a in refused), refused
            for number in accepted:
                assert (await user.ended(number))["status"] == "Completed"
            assert len(await user.statuses()) == before + len(accepted)
            await until(lambda: pair.left() == [], pair.data / "incoming")
        pair.check_log(said)
