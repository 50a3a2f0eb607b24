"""Reading a node's settings again: all of it, or nothing; and the log's level changes, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.reloading import RunningSettings
from node.settings import NodeSettings, load_settings

FILE = 'slots = 2\nlog_level = "info"\n'


@pytest.fixture(autouse=True)
def _levels_as_before() -> Iterator[None]:
    logs = logging.getLogger(), logging.getLogger("node")
    before = [log.level for log in logs]
    yield
    for log, level in zip(logs, before, strict=True):
        log.setLevel(level)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    return path


def write(file: Path, text: str) -> None:
    file.write_text(text)


def start(file: Path) -> RunningSettings:
    def read() -> NodeSettings:
        environ = {"DATA_PATH": str(file.parent / "data"), "ORCHESTRATOR_PAIR_TOKEN": "p" * 40}
        return load_settings(environ, {}, file)

    return RunningSettings(read(), read)


async def test_the_level_of_the_log_changes_and_the_rest_is_named(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(file)
    write(file, 'slots = 3\nlog_level = "debug"\n')
    await running.reload()
    assert logging.getLogger("node").level == logging.DEBUG
    assert (running.settings.log_level, running.settings.slots) == ("debug", 2)
    await running.reload()
    assert caplog.messages == [
        "settings were read again; changed: log_level",
        "settings that change with a restart only: slots",
        "settings were read again; changed: nothing",
        "settings that change with a restart only: slots",
    ], "it is told until the restart"


async def test_with_a_mistake_all_of_them_are_told_and_nothing_changes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(file)
    before = running.settings, logging.getLogger("node").level
    write(file, 'slot = 3\nport = true\nlog_level = "debug"\n')
    await running.reload()
    first, second = caplog.messages
    assert first.startswith("settings were not read again: ") and "slot: there is no such setting" in first
    assert "port" in second
    assert (running.settings, logging.getLogger("node").level) == before
    write(file, 'log_level = "error"\n')
    await running.reload()
    assert logging.getLogger("node").level == logging.ERROR, "it may be tried again"
