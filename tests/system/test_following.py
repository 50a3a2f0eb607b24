"""Following events and logs with real processes: over the death of the orchestrator, and byte for byte."""

from __future__ import annotations

import signal
from pathlib import Path

import trio
from support.peers.event_streams import events
from support.peers.portals import portal
from support.processes.gates import gate
from support.processes.processes import Place, Started, promised

ODD = (
    r"printf 'caf\xe9 \xff\x00 \xf0\x9f\xa7\xac end\n'; "
    r"for i in $(seq 300); do printf '\xe2\x82\xac'; sleep 0.001; done; printf '\xe2\x82'"
)
ODD_BYTES = b"caf\xe9 \xff\x00 \xf0\x9f\xa7\xac end\n" + "€".encode() * 300 + b"\xe2\x82"


async def test_odd_bytes_are_the_same_however_they_are_followed(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.upload(ODD)
        raw: list[bytes] = []

        async def follow() -> None:
            raw.append((await user.get(f"/v1/jobs/{job}/logs?follow")).content)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                async with events(shared.url, f"/v1/jobs/{job}/logs?format=events") as stream:
                    told = await stream.rest()
        assert raw == [ODD_BYTES]
        assert "".join(event.data["text"] for event in told[:-1]) == ODD_BYTES.decode("utf-8", "replace")
        assert told[-1].kind == "end" and told[-1].data["next_offset"] == len(ODD_BYTES)
        assert await user.log(job) == ODD_BYTES


async def test_a_line_and_a_change_are_seen_at_once(shared: Started, tmp_path: Path) -> None:
    async with portal(shared.url) as user:
        with gate(tmp_path / "gate") as shut:
            job = await user.upload(f"echo begun; {shut.wait}; echo line; sleep 0.5")
            with trio.fail_after(60):
                async with events(shared.url, f"/v1/jobs/{job}/logs?format=events") as stream:
                    first = await stream.next()
                    assert first is not None and first.data["text"] == "begun\n"
                    shut.open()
                    begun = trio.current_time()
                    second = await stream.next()
                    assert second is not None and second.data["text"] == "line\n"
                    # 200 ms are promised; a loaded machine that runs tests may take longer to wake anybody.
                    assert trio.current_time() - begun < promised(1.0)


async def test_who_follows_goes_on_where_it_was_when_the_orchestrator_is_killed(
    here: Place, tmp_path: Path
) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    with gate(tmp_path / "gate") as shut:
        async with portal(server.url) as user:
            job = await user.upload(f"echo one; {shut.wait}; echo two")
            with trio.fail_after(60):
                async with events(server.url, f"/v1/jobs/{job}/events?after=0") as changes:
                    seen = []
                    while not seen or seen[-1].data["status"] != "Running":
                        event = await changes.next()
                        assert event is not None
                        seen.append(event)
                async with events(server.url, f"/v1/jobs/{job}/logs?format=events") as lines:
                    line = await lines.next()
                    assert line is not None and line.data["text"] == "one\n"
            # What runs is read from its node, file by file.
            listed = (await user.json(f"/v1/jobs/{job}/files"))["items"]
            assert [item["path"] for item in listed] == ["run.sh", "stderr.log", "stdout.log"]
            assert b"echo two" in (await user.get(f"/v1/jobs/{job}/files/run.sh")).content
            assert (await user.http.get(f"/v1/jobs/{job}/files/nope")).status_code == 404
        await server.end(signal.SIGKILL)
        shut.open()
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        with trio.fail_after(60):
            async with events(server.url, f"/v1/jobs/{job}/events", seen[-1].id) as changes:
                seen += await changes.rest()
            async with events(server.url, f"/v1/jobs/{job}/logs?format=events", line.id) as lines:
                rest = await lines.rest()
        assert [event.data.get("text") for event in rest] == ["two\n", None]
        history = await user.history(job)
        assert [(event.data["from"], event.data["status"]) for event in seen if event.data["at"]] == [
            (entry["from"], entry["to"]) for entry in history
        ]
        ids = [event.id for event in seen]
        assert ids == sorted(set(ids))


async def test_a_paused_service_stays_paused_over_a_restart(here: Place) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        answer = await user.http.post("/v1/services/example/pause", json={"reason": "the disk is changed"})
        assert answer.status_code == 200
        job = await user.upload("true")
        told = await user.job(job)
        assert (told["waiting_for"], told["position"]) == ("paused", 0)
        assert "the disk is changed" in told["message"]
    await server.end(signal.SIGKILL)
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        assert (await user.job(job))["waiting_for"] == "paused"
        await user.http.post("/v1/services/example/resume")
        assert (await user.ended(job))["status"] == "Completed"
        again = (await user.http.post(f"/v1/jobs/{job}/rerun")).json()["id"]
        assert (await user.ended(again))["status"] == "Completed"
        assert (await user.http.delete(f"/v1/jobs/{job}")).json()["status"] == "Cleaned"
        assert (await user.http.get("/ready")).status_code == 200
        assert (
            'orchestrator_jobs{service="example",status="Completed"} 1.0' in (await user.get("/metrics")).text
        )
