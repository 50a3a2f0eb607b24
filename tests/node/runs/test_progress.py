"""What a script says of its progress: what its lines mean, and that the node hears of it."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.memory.fake_executor import PretendedRun
from support.peers.node_clients import EventLines
from support.processes.node_processes import node_process
from support.processes.nodes_in_process import KEY, OTHER, NodeInProcess, node_in_process

from actors.domain.progress import (
    LONGEST,
    BatchStand,
    Progress,
    batch_from_json,
    batch_to_json,
    normalize_progress,
)
from actors.wire.protocol.attempts import progress_from_json, progress_to_json
from node.host.inotify import Inotify
from node.runs import progress_file
from node.runs.progress_file import TAIL, ProgressTail, read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"0.4 aligning\n", Progress(0.4, "aligning")),
        (b"40% aligning", Progress(0.4, "aligning")),
        (b"40 % aligning\n", Progress(0.4, "aligning")),
        (b"1", Progress(1.0)),
        (b".5 \xc3\xa4\n\n \n", Progress(0.5, "\u00e4")),
        (b"1e-1 x\r\n", Progress(0.1, "x")),
        (b"10%\r20%\r30% of it", Progress(0.3, "of it")),
        (b"7 too much", Progress(1.0, "too much")),
        (b"1e999", Progress(1.0)),
        (b"-1e999 less", Progress(0.0, "less")),
        (b"250%", Progress(1.0)),
        (b"0.5 a\naligning\n", Progress(0.5, "aligning")),
        (b"0.5 a\nnan b\n", Progress(0.5, "b")),
        (b"0.5 a\n-inf b\n", Progress(0.5, "b")),
        (b"0.5x y\n", Progress(None, "0.5x y")),
        (b"3/10 y\n", Progress(None, "3/10 y")),
        (b"nan\n", None),
        (b"", None),
        (b"\n\r\n  \n", None),
        (b"\0\0\0\0" + b"0.5 after a hole\n", Progress(0.5, "after a hole")),
        (b"0.5 \xff\x1b[31mred\x07\tx\n", Progress(0.5, "\ufffd\ufffd[31mred\ufffd x")),
        (b"0.5 " + b"x" * 300, Progress(0.5, "x" * 200)),
    ],
)
def test_what_a_line_means(content: bytes, expected: Progress | None) -> None:
    assert ProgressTail(content).after(None) == expected


def test_what_was_said_before_stays_until_something_else_is_said() -> None:
    before = Progress(0.5, "half")
    assert ProgressTail(b"").after(before) == before
    assert ProgressTail(b"aligning").after(before) == Progress(0.5, "aligning")
    assert ProgressTail(b"0.1").after(before) == Progress(0.1)
    assert ProgressTail(b"cut off 0.9 x", whole=False).after(before) == before
    assert ProgressTail(b".9 cut\n0.2 y\n", whole=False).after(before) == Progress(0.2, "y")


def test_the_word_of_a_batch_system_stays_beside_the_scripts() -> None:
    stand = BatchStand("slurm", "17", "RUNNING")
    said = ProgressTail(b"runs in Slurm", batch=stand).after(None)
    assert said == Progress(None, "runs in Slurm", stand)
    assert ProgressTail(b"0.5 half").after(said) == Progress(0.5, "half", stand)
    over = replace(stand, state="TIMEOUT", ended=True)
    assert ProgressTail(batch=over).after(said) == replace(said, batch=over)


_LINES = st.one_of(st.binary(max_size=300), st.text(max_size=80).map(lambda text: text.encode("utf-8")))


@given(st.lists(_LINES, max_size=5).map(b"\n".join), st.booleans())
def test_whatever_is_written_is_fit_to_be_shown_and_sent(content: bytes, whole: bool) -> None:
    said = ProgressTail(content, whole).after(None)
    if said is None:
        return
    assert said.fraction is None or 0.0 <= said.fraction <= 1.0
    assert len(said.message) <= LONGEST
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029" for c in said.message)
    said.message.encode("utf-8")
    assert progress_from_json(progress_to_json(said)) == said
    assert ProgressTail(content, whole).after(said) == said


@given(st.floats(0, 1), st.text(st.characters(categories=("L", "N")), max_size=LONGEST))
def test_a_line_that_is_right_is_told_as_it_is(fraction: float, message: str) -> None:
    written = f"{fraction!r} {message}".encode()
    assert ProgressTail(b"0.3 earlier\n" + written).after(None) == Progress(fraction, message)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({"fraction": _JSON, "message": _JSON, "batch": _JSON}) | _JSON)
def test_whatever_a_node_sends_is_fit_or_nothing(data: Any) -> None:
    said = progress_from_json(data)
    if said is not None:
        line = normalize_progress(said.fraction, said.message)
        assert said == replace(line, batch=batch_from_json(data.get("batch"))) != Progress()


_WORDS = st.fixed_dictionaries(
    {"system": st.text() | _JSON, "id": st.text() | _JSON}, optional={"state": _JSON}
)


@given(_WORDS | _JSON)
def test_what_a_node_sends_of_a_batch_system_is_fit_or_nothing(data: Any) -> None:
    stand = batch_from_json(data)
    if stand is not None:
        assert stand.system and stand.id and batch_from_json(batch_to_json(stand)) == stand
        for word in (stand.system, stand.id, stand.state, stand.reason):
            assert word == normalize_progress(None, word).message


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"fraction": 10**400, "message": "\ud800"}, Progress(1.0, "\ufffd")),
        ({"fraction": math.nan, "message": "x"}, Progress(None, "x")),
        ({"fraction": True, "message": 3}, None),
        ({"fraction": -3}, Progress(0.0)),
        ({"fraction": 0.5, "message": "x" * 1_000_000}, Progress(0.5, "x" * 200)),
        ("0.5", None),
    ],
)
def test_what_a_hostile_node_sends(sent: Any, expected: Progress | None) -> None:
    assert progress_from_json(sent) == expected


# ---------------------------------------------------------------------- the file


def test_a_file_that_grew_large_is_emptied_once_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    path = tmp_path / "progress" / "progress"
    path.write_bytes(b"0.25 a\n" * (2 << 17))
    assert read(tmp_path).after(None) == Progress(0.25, "a")
    assert path.stat().st_size == 0
    # Who holds it open goes on at its own place; the hole before it takes no room.
    with path.open("r+b") as file:
        file.seek(1 << 30)
        file.write(b"\n0.5 b\n")
    assert read(tmp_path).after(None) == Progress(0.5, "b")
    assert path.stat().st_size > 1 << 30


def test_a_large_file_of_the_job_that_goes_by_this_name_too_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    (tmp_path / "result").write_bytes(b"0.25 a\n" * (2 << 17))
    os.link(tmp_path / "result", tmp_path / "progress" / "progress")
    assert read(tmp_path).after(None) == Progress(0.25, "a")
    assert (tmp_path / "result").stat().st_size == 7 * (2 << 17)


def test_nothing_that_is_no_file_does_any_harm(tmp_path: Path) -> None:
    place = tmp_path / "progress"
    assert read(tmp_path) == ProgressTail()
    place.mkdir()
    file = place / "progress"
    for make in (
        lambda: os.mkfifo(file),
        file.mkdir,
        lambda: file.symlink_to("/etc/passwd"),
        lambda: file.symlink_to(file),
    ):
        make()
        assert read(tmp_path) == ProgressTail()
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    with file.open("wb") as huge:
        huge.truncate(1 << 40)
        huge.seek(0, os.SEEK_END)
        huge.write(b"\n0.5 the end of a terabyte\n")
    assert len(read(tmp_path).tail) == TAIL
    assert read(tmp_path).after(None) == Progress(0.5, "the end of a terabyte")
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    assert read(tmp_path) == ProgressTail()


class Running:
    """A payload that runs, and what the node tells of it."""

    def __init__(self, node: NodeInProcess, run: PretendedRun, events: EventLines) -> None:
        self.node = node
        self.run = run
        self.file = Path(run.spec.environment["ORCHESTRATOR_PROGRESS"])
        self._events = events

    async def view(self) -> dict[str, Any]:
        """The next one that is told."""
        found: dict[str, Any] = (await self._events.next_of("payload"))["payload"]
        return found

    async def until(self, fraction: float | None, message: str = "") -> int:
        """Wait until this is told; the views that came, this one too."""
        count = 1
        while (await self.view())["progress"] != {"fraction": fraction, "message": message}:
            count += 1
        return count


@asynccontextmanager
async def running(data: Path, key: str = KEY) -> AsyncIterator[Running]:
    async with node_in_process(data) as node:
        run = await node.started(key)
        await node.until(key, "Running")
        async with node.events() as events:
            await events.next_of("picture")
            yield Running(node, run, events)


async def test_what_a_script_says_is_told_and_its_last_word_before_its_end(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.file.write_text("0.25 aligning\n")
        view = await one.view()
        assert view["status"] == "Running" and view["progress"] == {"fraction": 0.25, "message": "aligning"}
        # Less than a second after that: only the end itself makes it be looked at.
        one.file.write_text("99% nearly\n")
        one.run.finish()
        view = await one.view()
        assert (view["status"], view["progress"]) == ("Running", {"fraction": 0.99, "message": "nearly"})
        view = await one.view()
        assert (view["status"], view["progress"]) == ("Completed", {"fraction": 0.99, "message": "nearly"})
        one.file.write_text("0.1 after the end\n")
    record = (tmp_path / "payloads" / KEY / "record.json").read_text()
    assert "nearly" not in record


async def test_a_flood_is_told_in_few_words_and_the_last_of_them_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "EVERY", 0.3)
    looks = 0

    def counted(directory: Path) -> ProgressTail:
        nonlocal looks
        looks += 1
        return read(directory)

    monkeypatch.setattr(progress_file, "read", counted)
    async with running(tmp_path) as one:
        begun = trio.current_time()
        for n in range(10_000):
            with one.file.open("a" if n % 100 else "w") as file:
                file.write(f"{n / 10_000} step {n}\n")
            if n % 100 == 0:
                await trio.lowlevel.checkpoint()
        came = await one.until(0.9999, "step 9999")
        most = (trio.current_time() - begun) / 0.3 + 2
        assert came <= most and looks <= 2 * most


async def test_a_file_that_comes_and_goes_and_is_something_else_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "EVERY", 0.05)
    async with running(tmp_path) as one:
        one.file.write_text("0.1")
        await one.until(0.1)
        one.file.unlink()
        os.mkfifo(one.file)
        one.file.unlink()
        one.file.symlink_to("/etc/passwd")
        one.file.unlink()
        one.file.mkdir()
        one.file.rmdir()
        one.file.write_text("0.2")
        assert await one.until(0.2) == 1
        beside = tmp_path / "beside"
        beside.write_text("0.3")
        beside.rename(one.file)
        assert await one.until(0.3) == 1
        # Its directory too, under the watch of the kernel.
        one.file.unlink()
        one.file.parent.rmdir()
        one.file.parent.mkdir()
        one.file.write_text("0.4")
        assert await one.until(0.4) == 1
        one.file.parent.rename(tmp_path / "moved")
        one.file.parent.mkdir()
        one.file.write_text("0.5")
        assert await one.until(0.5) == 1
        one.run.finish()
        assert (await one.view())["status"] == "Completed"


async def test_it_is_told_where_the_kernel_grants_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "EVERY", 0.05)
    monkeypatch.setattr(Inotify, "arm", lambda self, directory: None)
    async with running(tmp_path) as one:
        for fraction in (0.5, 0.75):
            one.file.write_text(str(fraction))
            await one.until(fraction)


async def test_after_a_restart_it_is_told_at_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "EVERY", 0.05)
    async with running(tmp_path) as one:
        one.file.write_text("0.25 aligning")
        await one.until(0.25, "aligning")
    one.file.write_text("0.5 while nobody looked")
    async with node_in_process(tmp_path) as node, node.events() as events:
        (view,) = (await events.next_of("picture"))["payloads"]
        assert view["progress"] == {"fraction": 0.5, "message": "while nobody looked"}
        again = Running(node, await node.executor.run_of(KEY), events)
        one.file.write_text("0.75")
        await again.until(0.75)
        again.run.finish()
        await node.until(KEY, "Completed")
    async with node_in_process(tmp_path) as node:
        view = await node.until(KEY, "Completed")
        assert view["progress"] == {"fraction": 0.75, "message": ""}


async def test_it_is_no_ones_who_says_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        other = await one.node.started(OTHER)
        one.file.write_text("0.5")
        await one.until(0.5)
        other.finish()
        assert (await one.node.until(OTHER, "Completed"))["progress"] is None
        one.run.finish()


async def test_a_node_that_is_killed_tells_what_was_said_meanwhile_and_goes_on(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def say(fraction: float) -> None:
        await trio.to_thread.run_sync(fifo.write_text, f"{fraction}\n", abandon_on_cancel=True)

    async with node_process(tmp_path / "data", how=signal.SIGKILL) as node:
        # Opened once: a line is lost when its reader closes just as the next writer comes.
        script = f'exec 3<>{fifo}; while read x <&3; do echo "$x word" > "$ORCHESTRATOR_PROGRESS"; done'
        await node.submit({KEY: {"run.sh": script.encode()}})
        async with node.events() as events:
            await say(0.25)
            await told_to(events, 0.25)
    await say(0.5)
    await say(0.75)
    async with node_process(tmp_path / "data") as node, node.events() as events:
        await told_to(events, 0.75)
        await say(1)
        await told_to(events, 1.0)
        await node.client.post("/v1/cancel", json={"keys": [KEY]})
        end = await node.until(KEY, "Killed")
        assert end["progress"] == {"fraction": 1.0, "message": "word"}


async def told_to(events: EventLines, fraction: float) -> None:
    """Wait until the only payload has come so far."""
    while True:
        event = await events.next()
        for view in [*event.get("payloads", []), event.get("payload")]:
            if view is not None and (view["progress"] or {}).get("fraction") == fraction:
                return
