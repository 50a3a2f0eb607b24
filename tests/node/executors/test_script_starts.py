"""The two ways in which a shepherd starts a script: what comes of them is the same to the kernel."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.domain.limits import JobLimits
from node.confinement.tier_settings import NO_UIDS, RANGES, UidRange
from node.executors import shepherd_executor
from node.executors.executor import STDERR, STDOUT
from node.executors.shepherd_executor import ShepherdExecutor
from node.executors.shepherded_run import ShepherdedRun
from node.executors.spawner import Spawner
from node.executors.tiers import Tier
from tests.node.executors.conftest import Payloads

TELL = r"""
status() { while read -r line; do printf '%s\n' "$line"; done < /proc/self/status; }
status | grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp|SigBlk|SigIgn):'
cd /proc/$$/fd && echo open *
ps -o sid= -p $$ | grep -qx " *$$" && echo session
read -r _ < "$GATE"
"""


def _threads(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/task")


def _uids(pid: int) -> list[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))


async def test_a_script_with_limits_and_one_without_are_the_same_to_the_kernel(
    executor: ShepherdExecutor, payloads: Payloads, tier: str
) -> None:
    said = []
    # Limits are what a thread cannot have for itself: with them the shepherd forks.
    for limits in (JobLimits(), JobLimits(open_files=1000)):
        spec = payloads.make(TELL)
        gate = spec.work / "gate"
        os.mkfifo(gate)
        spec = replace(spec, limits=limits, environment={"PATH": "/usr/bin:/bin", "GATE": str(gate)})
        run = await executor.start(spec)
        assert isinstance(run, ShepherdedRun)
        with trio.fail_after(60):
            # Open as soon as the script reads: it has told all then.
            writer = await trio.to_thread.run_sync(os.open, gate, os.O_WRONLY)
        try:
            assert len(_threads(run.pid)) == 1
            assert _uids(run.pid) == [str(os.geteuid())] * 4
            owner = (spec.work).stat().st_uid
        finally:
            os.write(writer, b"\n")
            os.close(writer)
        with trio.fail_after(60):
            end = await run.wait()
        assert (end.exit_code, (spec.directory / STDERR).read_text()) == (0, "")
        told = (spec.directory / STDOUT).read_text()
        fields = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
        assert set(fields["Uid"].split()) == {str(owner)}
        said.append(re.sub(rf"(?m)(?<=\t){owner}$|(?<=\t){owner}(?=\t)", "ITS", told) if owner else told)
    assert said[0] == said[1]
    assert "open 0 1 2 255 3\nsession\n" in said[0]  # bash, and what lists them
    if tier != "bash":
        assert re.search(r"NoNewPrivs:\s+1", said[0]) and re.search(r"Seccomp:\s+2", said[0])
        assert set(re.findall(r"Cap\w+:\s+(\w+)", said[0])) == {"0" * 16}


@pytest.mark.parametrize(("uid", "uids"), [(0, None), (1000, None), (0, RANGES[0])])
def test_scripts_that_run_as_root_are_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    uid: int,
    uids: UidRange | None,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    ShepherdExecutor(tmp_path, tier="bash")._say(Tier("bash", uids), {})
    warned = [one.getMessage() for one in caplog.records]
    expected = ["scripts run as root here: whoever may submit a job has this machine"]
    assert warned == (expected if (uid, uids) == (0, None) else [])


async def test_a_start_waits_where_the_account_has_too_many_descriptors_under_way(
    payloads: Payloads, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script of the same account can send them to itself, which is no fault of the spawner's."""
    executor = ShepherdExecutor(payloads.directory, tier="bash", uids=NO_UIDS)
    await nursery.start(executor.serve)
    tried = []

    class Full:
        def __init__(self, control: trio.socket.SocketType) -> None:
            self._control = control

        async def sendmsg(self, *arguments: Any) -> int:
            tried.append(len(arguments))
            if len(tried) < 8:  # More often than a spawner may die.
                raise OSError(errno.ETOOMANYREFS, "as if")
            return await self._control.sendmsg(*arguments)

    async def find_full(spawner: Spawner, current: Any = Spawner._current) -> Any:
        return Full(await current(spawner))

    monkeypatch.setattr(Spawner, "_current", find_full)
    monkeypatch.setattr(shepherd_executor, "_PAUSE", 0.0)
    with trio.fail_after(60):
        end = await (await executor.start(payloads.make("exit 3"))).wait()
    assert (end.exit_code, len(tried)) == (3, 8)
    nursery.cancel_scope.cancel()
