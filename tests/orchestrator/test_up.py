"""How `up` keeps its server, by programs that only say what a server says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from orchestrator import up
from orchestrator.up import ServerFailed, Serving, _ServerProcess

SERVING = Serving(0, (), 1, 1, 1, "here", None, "token")
LISTENS = """
import signal, sys
sys.stdin.readline()
print("listening on http://127.0.0.1:5", flush=True)
"""
ENDS_WHEN_TOLD = f"{LISTENS}\nsignal.pause()"
HANGS = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{LISTENS}\nwhile True: signal.pause()"
DIES = "import os; os.kill(os.getpid(), 9)"


class _Process(subprocess.Popen[bytes]):
    told = 0

    def terminate(self) -> None:
        self.told += 1
        super().terminate()


@dataclass
class Kept:
    """A server of `up` that is `program`. `started` are its processes."""

    program: str
    started: list[_Process] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    shutdown: trio.Event = field(default_factory=trio.Event)
    _changed: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.server = _ServerProcess(self._bound)

    def start(self) -> _Process:
        pipe = subprocess.PIPE
        self.started.append(_Process([sys.executable, "-S", "-c", self.program], stdin=pipe, stdout=pipe))
        self._change()
        return self.started[-1]

    async def until(self, *, started: int = 0, bound: int = 0) -> None:
        while len(self.started) < started or len(self.urls) < bound:
            await self._changed.wait()

    def _bound(self, url: str) -> None:
        self.urls.append(url)
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def keeping(program: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    kept = Kept(program)
    monkeypatch.setattr(up, "start_bound_server", kept.start)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.server.keep, kept.shutdown)
        yield kept
        kept.shutdown.set()


async def test_a_server_that_starts_is_not_killed_to_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(ENDS_WHEN_TOLD, monkeypatch) as kept:
        await kept.until(started=1)
        kept.server.replace()
        kept.server.replace()
        kept.server.tell(SERVING)
        await kept.until(started=2)
    assert kept.urls == ["http://127.0.0.1:5"]
    assert kept.started[0].told == 1 and len(kept.started) == 2


async def test_a_server_that_is_to_be_replaced_and_to_end_is_told_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with keeping(HANGS, monkeypatch) as kept:
        kept.server.tell(SERVING)
        await kept.until(bound=1)
        kept.server.replace()
        await trio.testing.wait_all_tasks_blocked()
        kept.server.replace()
        kept.shutdown.set()
    assert [one.told for one in kept.started] == [1]


async def test_a_server_that_hangs_is_replaced_all_the_same(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with keeping(HANGS, monkeypatch) as kept:
        kept.server.tell(SERVING)
        await kept.until(bound=1)
        kept.server.replace()
        await kept.until(started=2)
    assert kept.started[0].returncode == -9


async def test_what_killed_a_server_before_it_listened_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ServerFailed, match="by signal 9 before it listened")):
        async with keeping(DIES, monkeypatch) as kept:
            kept.server.tell(SERVING)
            await trio.sleep_forever()
