"""Settings that change while the server runs."""

from __future__ import annotations

import signal
from pathlib import Path

from support.peers.portals import portal
from support.processes.gates import gate
from support.processes.processes import Place

SETTINGS = """
[services.example]
nodes = ["{node}"]
max_runs = {most}
"""


async def test_a_quota_changes_and_a_service_goes_and_comes_under_running_jobs(here: Place) -> None:
    node = here.node("node", "--slots", "4")
    server = here.server(config=SETTINGS.format(node=node.url, most=1))
    file = Path(here.directory / "server.toml")

    def set_to(text: str) -> None:
        file.write_text(text)

    async with portal(server.url) as user:
        with gate(here.directory / "gate") as first:
            running = await user.upload(f"{first.wait}; echo 1 > result.txt")
            await user.until(running, "Running")
            waiting = await user.upload(f"{first.wait}; echo 2 > result.txt", user=2)
            assert "already runs 1 of 1 jobs" in (await user.job(waiting))["message"]

            set_to("[services.other]\nmax_runs = 2\n[services.example]\nmax_runs = 0\n")
            answer = await user.http.post("/v1/reload")
            assert answer.status_code == 409 and "max_runs" in answer.json()["detail"]
            assert "already runs 1 of 1 jobs" in (await user.job(waiting))["message"]

            set_to("port = 1\n[services.other]")
            answer = await user.http.post("/v1/reload")
            assert answer.json()["changed"] == ["services.example (gone)", "services.other (new)"]
            assert answer.json()["after_restart"] == ["port"]
            (warning,) = answer.json()["warnings"]
            assert warning.startswith("no node runs other: start one with") and warning in server.errors()
            assert "there is no service example any more" in (await user.job(waiting))["message"]
            assert (await user.post('name="file"; filename="run.sh"|true')).status_code == 400

            set_to(SETTINGS.format(node=node.url, most=2))
            server.send(signal.SIGHUP)
            await user.until(waiting, "Running")
            first.open()
            for job in (running, waiting):
                end = await user.ended(job)
                assert (end["status"], end["attempt"]) == ("Completed", 1)
        lines = (await user.json("/v1/audit"))["items"]
        signalled, ordered, refused = (one for one in lines if one["action"] == "reload")
        assert (signalled["who"], signalled["role"], signalled["address"]) == ("SIGHUP", None, "")
        assert signalled["detail"] == "services.example (new), services.other (gone)"
        assert ordered["detail"] == "services.example (gone), services.other (new)"
        assert refused["detail"].startswith("nothing was changed: ") and "max_runs" in refused["detail"]
    assert await server.end(signal.SIGTERM) == 0


SHARED = """
[services.example]
nodes = ["{node}"]
[services.dock]
nodes = ["{node}"]
keep_slots = {kept}
"""


async def test_slots_are_kept_for_a_service_until_the_settings_say_otherwise(here: Place) -> None:
    node = here.node("node", "--slots", "2")
    server = here.server(config=SHARED.format(node=node.url, kept=2))
    file = Path(here.directory / "server.toml")

    def keep(slots: int) -> None:
        file.write_text(SHARED.format(node=node.url, kept=slots))

    async with portal(server.url) as user:
        with gate(here.directory / "gate") as first:
            ours = await user.upload(first.wait, service="dock")
            await user.until(ours, "Running")
            waiting = await user.upload("true")
            job = await user.job(waiting)
            assert (job["waiting_for"], job["status"]) == ("kept", "Queued")
            assert job["message"] == "waits: the free slots are kept for dock; it goes next"
            keep(1)  # which is the one that has a job
            answer = await user.http.post("/v1/reload")
            assert answer.json()["changed"] == ["services.dock.keep_slots"]
            assert (await user.ended(waiting))["status"] == "Completed"
            first.open()
            assert (await user.ended(ours))["status"] == "Completed"
    assert await server.end(signal.SIGTERM) == 0
