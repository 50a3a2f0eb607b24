"""A disk that refuses to sync the ledger, once: the server ends, answers nothing any more, and begins anew
with all that it had answered."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import httpx
import pytest
from support.peers.portals import portal
from support.processes.processes import COMMAND, PATIENCE, Place

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

START = ("server", "--port", "0")
LARGE = os.urandom(80_000)
"""Of every third job, so that its files are not in the ledger."""


def failing(trace: Path, number: int) -> tuple[str, ...]:
    """A server in which the sync of this number fails, of those that a thread makes. Only SQLite makes such;
    after it they go well again, as they do on real disks."""
    watched = (
        "-e",
        "trace=fdatasync,write,sendto,sendmsg",
        "-e",
        f"inject=fdatasync:error=EIO:when={number}",
    )
    return ("strace", "-D", "-f", "-q", "-e", "signal=none", "-s", "16", "-o", str(trace), *watched, *COMMAND)


def settings(here: Place) -> dict[str, str]:
    data = here.directory / "server"
    return {
        "DB_PATH": str(data / "db.sqlite"),
        "DATA_PATH": str(data / "data"),
        "SERVICE_EXAMPLE_NODES": "http://127.0.0.1:9",
    }


@pytest.mark.parametrize("number", [25, 34])
async def test_a_failed_sync_ends_the_server_before_anything_more_is_answered(
    here: Place, number: int
) -> None:
    trace, environment = here.directory / "trace", settings(here)
    server = here.start(*START, name="server", environment=environment, command=failing(trace, number))
    answered = []
    async with portal(server.url) as user:
        with pytest.raises(httpx.TransportError):
            for serial in range(500):
                large = {"large": LARGE} if serial % 3 == 0 else {}
                answered.append(await user.upload(f"echo {serial}", files=large))
    assert await server.ended(PATIENCE) == os.EX_IOERR
    assert "the ledger could not be synced (disk I/O error): this process ends" in server.errors()
    before, _, after = trace.read_text().partition("EIO (Input/output error) (INJECTED)")
    assert before.count('"HTTP/1.1 201') == len(answered) > 0
    assert after and not re.search(r"HTTP/1\.1 \d", after)
    again = here.start(*START, name="server", environment=environment)
    async with portal(again.url) as user:
        for serial, job in enumerate(answered):
            assert (await user.job(job))["status"] == "Queued"
            script = await user.get(f"/v1/jobs/{job}/files/run.sh")
            assert script.content == f"echo {serial}".encode()
        assert await user.upload("true") > max(answered)


@pytest.mark.parametrize("number", [1, 4, 8, 11])
async def test_a_sync_that_fails_at_the_start_leaves_what_the_next_one_begins_with(
    here: Place, number: int
) -> None:
    trace, environment = here.directory / "trace", settings(here)
    begun = here.begin(*START, name="server", environment=environment, command=failing(trace, number))
    assert await begun.ended(PATIENCE) == 1
    assert "the ledger's disk fails" in begun.errors()
    async with portal(here.start(*START, name="again", environment=environment).url) as user:
        assert await user.upload("true") == 1
