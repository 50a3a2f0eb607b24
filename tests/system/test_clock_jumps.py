"""The wall clock of orchestrator and node jumps while jobs run: nothing that counts goes by it."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

from support.peers.portals import portal
from support.processes.gates import gate
from support.processes.processes import Place, promised, soon_lost

CLOCK = Path(__file__).parents[1] / "support" / "clocks" / "jumping_clock"
HOUR = 3600.0
JOBS = 6


class Clock:
    """The wall clock of the processes that have its environment. It is set by a rename, so that nobody reads
    half a number."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "offset"
        self.environment = {"PYTHONPATH": str(CLOCK), "JUMPING_CLOCK": str(self._file)}
        self.jump(0)

    def jump(self, seconds: float) -> None:
        written = self._file.with_suffix(".new")
        written.write_text(str(seconds))
        os.replace(written, self._file)

    def set(self, second: float) -> None:
        self.jump(second - time.time())


async def test_no_jump_loses_a_node_ends_a_job_or_cleans_anything(here: Place) -> None:
    clock = Clock(here.directory)
    arguments = ["node", "--port", "0", "--data", str(here.directory / "node"), "--on-stop", "kill"]
    node = here.start(*arguments, name="node", environment=clock.environment)
    # The Cleaner looks at what is older than this, and deletes none of it on the word of this clock alone.
    server = here.server(
        nodes=[node.url], config=f"node_lost_after = {soon_lost(3)}", MAX_AGE="1800", **clock.environment
    )
    with gate(here.directory / "gate") as shut:
        async with portal(server.url) as user:
            done = await user.run("echo kept > kept")
            answer = await user.post(f'name="file"; filename="run.sh"|{shut.wait}', 'name="max_runtime"|600')
            jobs = [int(answer.json()["id"])]
            jobs += [await user.upload(shut.wait, user=number) for number in range(JOBS)]
            for job in jobs:
                await user.until(job, "Running")
            before = await user.statuses()
            for jump, to in ((clock.jump, HOUR), (clock.jump, -HOUR), (clock.set, 60.0)):
                jump(to)
                # Ticks and heartbeats go by meanwhile; a wait is as long as it would have been.
                still = await user.job(jobs[0])
                began = time.monotonic()
                assert await user.job(jobs[0], f"?wait=1.2&after={still['version']}") == still
                assert time.monotonic() - began < 1.2 + promised(2)
                assert await user.statuses() == before
            clock.set(2147731200.0)  # in January of 2038
            late = await user.run("true", user=99)
            assert late["status"] == "Completed" and late["created_at"].startswith("2038-01-2"), late
            clock.jump(0)
            shut.open()
            for job in jobs:
                end = await user.ended(job)
                assert (end["status"], end["attempt"], end["attempts_used"]) == ("Completed", 1, 1)
                assert end["wall_seconds"] >= 0
            assert (await user.contents(done["id"]))["kept"] == b"kept\n"
    assert "is lost" not in server.errors() and "Traceback" not in server.errors() + node.errors()


async def test_a_node_whose_clock_is_ahead_is_told_and_dates_no_job(here: Place) -> None:
    clock = Clock(here.directory)
    clock.jump(600)
    arguments = ["node", "--port", "0", "--data", str(here.directory / "node"), "--on-stop", "kill"]
    node = here.start(*arguments, name="node", environment=clock.environment)
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        job = await user.run("sleep 0.2")
        times = [job[name] for name in ("created_at", "started_at", "finished_at", "ended_at")]
        assert times == sorted(times) and datetime.fromisoformat(times[-1]).timestamp() <= time.time()
        (found,) = (await user.json("/v1/nodes"))["items"]
        assert abs(found["clock_skew_seconds"] - 600) < 5
        assert found["status"] == "ready" and found["message"] in (
            f"its clock is {seconds} s ahead" for seconds in range(595, 606)
        )
