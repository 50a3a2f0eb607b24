"""The app that an ASGI host loads: its lifespan is the actors' life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

import orchestrator.asgi
from actors.config.tables import SettingsError
from orchestrator.asgi import LifespanApp
from orchestrator.config.settings import FileCheck, Settings


class Host:
    """The host's side of one lifespan."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gave_up = False
        self.started = trio.Event()
        self.stop = trio.Event()
        self._asked = 0

    def give_up(self) -> None:
        self.gave_up = True

    async def receive(self) -> Mapping[str, Any]:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        self.started.set()
        await self.stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def settings(path: Path) -> Settings:
    return replace(Settings(), db_path=path / "db.sqlite", data_path=path / "data")


async def test_a_life_from_startup_to_shutdown(tmp_path: Path) -> None:
    host = Host()
    app = LifespanApp(lambda check_files: settings(tmp_path), host.give_up)
    with pytest.raises(RuntimeError, match="lifespan"):
        await app({"type": "http"}, host.receive, host.send)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, {"type": "lifespan"}, host.receive, host.send)
            await host.started.wait()
            host.stop.set()
    assert [m["type"] for m in host.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not host.gave_up


async def test_a_start_that_fails_is_told_to_the_host(tmp_path: Path) -> None:
    host = Host()

    def wrong(check_files: FileCheck) -> Settings:
        raise SettingsError(["PORT: 'x' is not what was expected"])

    await LifespanApp(wrong, host.give_up)({"type": "lifespan"}, host.receive, host.send)
    assert host.sent == [{"type": "lifespan.startup.failed", "message": "PORT: 'x' is not what was expected"}]


async def test_when_the_actors_end_by_an_error_the_host_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, crash = Host(), trio.Event()

    async def run(*_: object, task_status: trio.TaskStatus[object]) -> None:
        task_status.started(object())
        await crash.wait()
        raise ValueError("the sender crashed 8 times in a row")

    monkeypatch.setattr(orchestrator.asgi, "run_orchestrator", run)
    async with trio.open_nursery() as nursery:
        app = LifespanApp(lambda check_files: Settings(), host.give_up)
        nursery.start_soon(app, {"type": "lifespan"}, host.receive, host.send)
        await host.started.wait()
        crash.set()
    assert host.gave_up
    assert host.sent[-1]["type"] == "lifespan.shutdown.failed"
    assert "8 times in a row" in caplog.text
