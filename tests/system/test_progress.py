"""What a script says of its progress, from its file to the API and the events, with real processes."""

from __future__ import annotations

from pathlib import Path

import trio
from support.peers.event_streams import events
from support.peers.portals import portal
from support.processes.gates import gate
from support.processes.processes import Started


async def test_progress_is_seen_where_the_job_is_seen_and_a_rerun_begins_without(
    shared: Started, tmp_path: Path
) -> None:
    async with portal(shared.url) as user:
        with gate(tmp_path / "gate") as shut, trio.fail_after(60):
            script = f"""
                echo 0.25 aligning > "$ORCHESTRATOR_PROGRESS"; {shut.wait}
                printf '99%% last\\x1b[2J word' >> "$ORCHESTRATOR_PROGRESS"; cd /; rm -r "$OLDPWD"
            """
            job = await user.upload(script)
            async with events(shared.url, f"/v1/jobs/{job}/events") as stream:
                while (event := await stream.next()) is not None:
                    if (event.data["job"] or {}).get("progress") is not None:
                        break
                assert event is not None and event.kind == "job"
                assert event.data["job"]["progress"] == 0.25
                assert event.data["job"]["progress_message"] == "aligning"
                seen = await user.job(job)
                assert (seen["status"], seen["progress"], seen["progress_message"]) == (
                    "Running",
                    0.25,
                    "aligning",
                )
                (listed,) = [item for item in (await user.json("/v1/jobs"))["items"] if item["id"] == job]
                assert listed["progress"] == 0.25
                shut.open()
                told = [event.data["job"] for event in await stream.rest()]
        ended = await user.ended(job)
        assert ended["status"] == "Completed"
        assert (ended["progress"], ended["progress_message"]) == (0.99, "last\ufffd[2J word")
        assert (told[-1]["status"], told[-1]["progress"]) == ("Completed", 0.99)
        # It is of no transition, and of no history.
        assert not [step for step in await user.history(job) if "aligning" in step["reason"]]
        again = (await user.http.post(f"/v1/jobs/{job}/rerun")).json()
        assert again["progress"] is None and again["progress_message"] is None
        await user.ended(again["id"])
