"""Reading the settings again: all of it, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.process.log_lines import set_level
from orchestrator.config.settings import FileCheck, Settings, load
from orchestrator.reloading import BadSettings, NothingToRead, RunningSettings

FILE = """
max_queued = 5
[services.a]
nodes = ["http://127.0.0.1:9"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(FILE)
    return path


def write(file: Path, text: str) -> None:
    file.write_text(text)


def start(file: Path) -> RunningSettings:
    def read(check_files: FileCheck) -> Settings:
        return load({}, file, check_files=check_files)

    running = RunningSettings(load({}, file), read)
    running.begun.set()
    return running


async def test_what_holds_is_the_same_object_and_says_other_things(file: Path) -> None:
    running = start(file)
    services, limits, told = running.services, running.limits, list[Settings]()

    async def change(now: Settings) -> None:
        told.append(now)

    running.on_change.append(change)
    seen = iter(services)
    write(file, FILE.replace("5", "7").replace("services.a", "services.b"))
    await running.reload()
    assert (limits.queued, list(services)) == (7, ["b"])
    assert list(seen) == ["a"], "who has begun to look goes on with what was there"
    assert told == [running.settings]
    await running.reload()
    assert len(told) == 2, "whoever was not reached is told when it is asked again"


async def test_with_a_mistake_all_of_them_are_told_and_nothing_changes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running, before = start(file), load({}, file)
    write(file, FILE.replace("5", "7") + 'max_runs = 0\n[services.b]\nnodes = 1\ntls_cert = "x"\n')
    with pytest.raises(BadSettings) as caught:
        await running.reload()
    assert [line.split(": ")[1] for line in caught.value.mistakes] == [
        "services.a.max_runs",
        "services.b.nodes",
        "services.b.tls_cert",
    ]
    assert str(caught.value).startswith("nothing was changed: ")
    assert running.settings == before and running.limits.queued == 5 and list(running.services) == ["a"]
    await running.reload_for_signal()
    assert len([one for one in caplog.records if "not read again" in one.getMessage()]) == 3


async def test_files_that_the_settings_name_are_looked_at_too(file: Path) -> None:
    running = start(file)
    write(file.parent / "tokens", "no tokens")
    write(file, f'tokens_file = "{file.parent}/tokens"\ntls_key = "k.pem"\n{FILE}')
    with pytest.raises(BadSettings, match="tokens") as caught:
        await running.reload()
    assert len(caught.value.mistakes) == 2, "all at once"


async def test_what_came_of_a_signal_is_noted_and_of_mistakes_too(file: Path) -> None:
    running, noted = start(file), list[str]()

    async def note(detail: str) -> None:
        noted.append(detail)

    running.note_signal = note
    write(file, FILE.replace("5", "7"))
    await running.reload_for_signal()
    write(file, FILE.replace("5", "-7"))
    await running.reload_for_signal()
    assert noted[0] == "max_queued" and len(noted) == 2
    assert noted[1].startswith("nothing was changed: ") and "max_queued" in noted[1]


async def test_a_level_that_was_ordered_ends_and_that_is_told(file: Path) -> None:
    running = start(file)
    try:
        set_level("orchestrator", "debug")
        assert (await running.reload()).made == ("log_level (back to info)",)
        assert (await running.reload()).made == ()
    finally:
        set_level("orchestrator", "info")


async def test_an_order_that_cannot_be_noted_changes_nothing(file: Path) -> None:
    running = start(file)

    async def note(_: object) -> None:
        raise OSError("no room")

    write(file, FILE.replace("5", "7"))
    with pytest.raises(OSError, match="no room"):
        await running.reload(note)
    assert running.limits.queued == 5


async def test_what_came_from_nowhere_is_not_read_again() -> None:
    running = RunningSettings(Settings())
    with pytest.raises(NothingToRead):
        await running.reload()
