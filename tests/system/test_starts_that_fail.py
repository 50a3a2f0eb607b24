"""A node whose tier breaks while it serves: it uses up no jobs, says what is wrong, and comes back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.peers.portals import portal
from support.processes.node_processes import inner, node_process
from support.processes.processes import Place

BWRAP = shutil.which("bwrap")
CANNOT_MOUNT = "bwrap: Can't mount proc on /newroot/proc: Operation not permitted"
WORKS = f'exec {BWRAP} "$@"'
WITHIN = (
    *("unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c"),
    'mount -t tmpfs -o mode=755 none /srv && PATH="/srv:$PATH" && "$0" /srv/bwrap && exec "$@"',
)
"""Scripts see what is in `/srv`, and so does what starts them; nothing of this machine is changed by it."""


def put(bwrap: Path, program: str) -> None:
    bwrap.write_text(f"#!/bin/sh\n{program}\n")
    bwrap.chmod(0o755)


@pytest.mark.skipif(BWRAP is None, reason="there is no bwrap here")
async def test_a_tier_that_breaks_fails_no_job_and_its_node_comes_back_by_itself(
    here: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    first = here.directory / "bwrap"
    put(first, WORKS)
    putting = here.directory / "put"
    putting.write_text(f'#!/bin/sh\ncp -p {first} "$1"\n')
    putting.chmod(0o755)
    flags = ("--executor", "bubblewrap", "--slots", "1")
    async with node_process(here.directory / "node", *flags, within=(*WITHIN, str(putting))) as node:
        server = here.server(nodes=[node.url])
        bwrap = Path(f"/proc/{inner(node.process.pid)}/root/srv/bwrap")
        async with portal(server.url) as user:
            assert (await user.ended(await user.upload("true")))["status"] == "Completed"
            put(bwrap, f'echo "{CANNOT_MOUNT}" >&2; exit 1')
            jobs = [await user.upload("echo well > result.txt", user=number) for number in (1, 2)]
            waits = await user.until(jobs[0], "Queued", saying="is set aside")
            why = f"could not be started: bubblewrap does not start it: {CANNOT_MOUNT}"
            assert why in waits["message"] and waits["attempts_used"] == 1
            troubles = {one["kind"]: one["text"] for one in (await user.json("/v1/troubles"))["items"]}
            assert f"is set aside: a job {why}; mend that on its machine" in troubles["set_aside"]
            put(bwrap, WORKS)
            ends = [await user.ended(job) for job in jobs]
            assert [end["status"] for end in ends] == ["Completed"] * 2
            # Nobody else was sent there meanwhile.
            assert [end["attempts_used"] for end in ends] == [2, 1]
            steps = [step["reason"] for step in await user.history(jobs[0])]
            assert [step for step in steps if step.endswith(f"it {why}; it is queued for another attempt")]
    said = capfd.readouterr().err
    assert f"WARNING node.runner: attempt 1 of job {jobs[0]} {why}" in said, said
