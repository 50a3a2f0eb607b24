"""A backup of a server under load, put back elsewhere after the server was killed: nothing differs."""

from __future__ import annotations

import signal
from pathlib import Path

import trio
from support.peers.portals import portal
from support.processes.processes import Place

JOBS = 12
LARGE = 100_000
"""Bytes that no ledger keeps."""
SCRIPT = "cat in > out; head -c {size} /dev/zero | tr '\\0' x >> out; echo it ran"


def where(directory: Path) -> dict[str, str]:
    return {"DB_PATH": str(directory / "db.sqlite"), "DATA_PATH": str(directory / "data")}


async def test_what_a_backup_under_load_holds_is_served_elsewhere(here: Place) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    copy, source, target = (here.directory / name for name in ("copy", "server", "elsewhere"))
    target.mkdir()
    async with portal(server.url) as user:
        done = [
            await user.upload(SCRIPT.format(size=size), files={"in": b"i" * size})
            for size in (10, LARGE)
            for _ in range(JOBS // 2)
        ]
        before = {job: await user.ended(job) for job in done}
        contents = {job: await user.contents(job) for job in done}
        async with trio.open_nursery() as load:

            async def submit() -> None:
                while True:
                    job = await user.upload("echo more", files={"in": b"j" * LARGE})
                    await user.ended(job)
                    await user.http.delete(f"/v1/jobs/{job}")

            load.start_soon(submit)
            for _ in range(3):
                back = await trio.to_thread.run_sync(
                    lambda: here.refused("backup", str(copy), environment=where(source))
                )
                assert back.status == 0, back
            load.cancel_scope.cancel()
        waiting = await user.upload("exec sleep 600")
        await user.until(waiting, "Running")
        back = here.command("backup", str(copy), environment=where(source))
        assert back.status == 0, back
        lost = await user.upload("echo after the last backup")
    await server.end(signal.SIGKILL)

    back = here.command("restore", str(copy), environment=where(target))
    assert back.status == 0, back
    checked = here.command("check", "--contents", environment=where(target))
    assert (checked.status, checked.out) == (0, "ledger and files fit\n")
    second = here.server("elsewhere", nodes=[node.url])
    async with portal(second.url) as user:
        for job in done:
            assert await user.job(job) == before[job]
            assert await user.contents(job) == contents[job]
        # The node still has what ran; nobody starts it again.
        row = await user.until(waiting, "Running")
        assert row["attempts_used"] == 1
        assert (await user.http.get(f"/v1/jobs/{lost}")).status_code == 404
        assert await user.upload("true") > lost
    over = here.command("restore", str(copy), environment=where(target))
    assert over.status == 1 and "move it away" in over.lines[0]
