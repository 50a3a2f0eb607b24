"""Large files of payloads, written bit by bit before a sync of everything."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.process import procfs
from node.runs import large_files
from node.runs.large_files import IN_HURRY, LITTLE, LONGEST, STEP, write_large_back


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, int]]:
    """What was written back, by the file's name."""
    found: list[tuple[str, int, int, int]] = []

    def note(fd: int, waited: int, begun: int, end: int) -> None:
        found.append((os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2], waited, begun, end))

    monkeypatch.setattr(large_files, "write_back", note)
    monkeypatch.setattr(large_files, "bytes_held_back", lambda: LITTLE + 1)
    return found


def make_file(path: Path, size: int) -> Path:
    """With something in each step of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for at in range(0, size, STEP):
            file.seek(at)
            file.write(b"x")
    os.truncate(path, size)
    return path


class Hurry(threading.Event):
    """Notes how long others have the disk. `comes`: whether somebody is in a hurry by then."""

    def __init__(self, *, comes: bool = False) -> None:
        super().__init__()
        self.slept: list[float] = []
        self._comes = comes

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.slept.append(timeout)
        return self._comes


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ends of those that were written back, which take half a second each."""
    found: list[int] = []
    monkeypatch.setattr(large_files, "write_back", lambda fd, waited, begun, end: found.append(end))
    monkeypatch.setattr(large_files, "bytes_held_back", lambda: LITTLE + 1)
    monkeypatch.setattr(large_files, "time", SimpleNamespace(monotonic=lambda: 0.5 * len(found)))
    return found


def test_large_files_are_written_step_by_step_and_nothing_else(
    tmp_path: Path, written: list[tuple[str, int, int, int]]
) -> None:
    make_file(tmp_path / "outside" / "other", 2 * STEP)
    first, second = tmp_path / "first", tmp_path / "second"
    make_file(first / "work" / "deep" / "copy.bin", 2 * STEP + 5)
    make_file(first / "work" / "small", STEP)
    make_file(second / "home" / "scratch", 2 * STEP)
    os.mkfifo(first / "work" / "pipe")
    (first / "work" / "link").symlink_to(tmp_path / "outside" / "other")
    (first / "work" / "outside").symlink_to(tmp_path / "outside")
    write_large_back([first, tmp_path / "gone", second])
    assert written == [
        ("copy.bin", 0, 0, STEP),
        ("copy.bin", 0, STEP, 2 * STEP),
        ("copy.bin", STEP, 2 * STEP, 2 * STEP + 5),
        ("scratch", 0, 0, STEP),
        ("scratch", 0, STEP, 2 * STEP),
    ]


def test_nothing_is_looked_at_where_the_kernel_holds_little_back(
    tmp_path: Path, written: list[tuple[str, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file(tmp_path / "large", 2 * STEP)
    monkeypatch.setattr(large_files, "bytes_held_back", lambda: LITTLE)
    write_large_back([tmp_path])
    assert written == []


def test_of_a_payload_with_many_files_all_is_left_to_the_sync(
    tmp_path: Path, written: list[tuple[str, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_files, "_LOOKED_AT", 2)
    for number in range(3):
        make_file(tmp_path / "many" / str(number), 2 * STEP)
    make_file(tmp_path / "few" / "large", 2 * STEP)
    write_large_back([tmp_path / "many", tmp_path / "few"])
    assert {name for name, *_ in written} == {"large"}


def test_of_what_is_deleted_meanwhile_no_more_is_written_and_what_fails_is_left_to_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def delete(fd: int, waited: int, begun: int, end: int) -> None:
        steps.append(end)
        if "deleted" in (path := os.readlink(f"/proc/self/fd/{fd}")):
            os.unlink(path)
        else:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(large_files, "write_back", delete)
    monkeypatch.setattr(large_files, "bytes_held_back", lambda: LITTLE + 1)
    make_file(tmp_path / "1" / "deleted", 3 * STEP)
    make_file(tmp_path / "2" / "failing", 3 * STEP)
    write_large_back([tmp_path / "1", tmp_path / "2"])
    assert steps == [STEP, STEP]


def test_in_no_hurry_others_have_the_disk_for_as_long_as_each_step_took(
    tmp_path: Path, steps: list[int]
) -> None:
    make_file(tmp_path / "large", 2 * STEP)
    write_large_back([tmp_path])
    assert steps == [STEP, 2 * STEP]
    write_large_back([tmp_path], hurry := Hurry())
    assert hurry.slept == [0.5, 0.5]


def test_once_there_is_a_hurry_the_rest_is_left_to_the_sync(tmp_path: Path, steps: list[int]) -> None:
    make_file(tmp_path / "large", 3 * STEP)
    write_large_back([tmp_path, tmp_path], Hurry(comes=True))
    assert steps == [STEP]


def test_nothing_is_done_for_the_holes_of_a_file(
    tmp_path: Path, written: list[tuple[str, int, int, int]]
) -> None:
    path, most = tmp_path / "sparse", 1 << 43
    path.touch()
    os.truncate(path, most)
    with path.open("r+b") as file:
        file.seek(most // 2 + 7)
        file.write(b"x")
    write_large_back([tmp_path])
    assert written == [("sparse", 0, most // 2, most // 2 + STEP)]


@pytest.mark.parametrize(("hurry", "most"), [(Hurry(), LONGEST), (None, IN_HURRY)], ids=["none", "hurry"])
def test_what_takes_too_long_is_left_to_the_sync(
    tmp_path: Path, steps: list[int], hurry: Hurry | None, most: float
) -> None:
    make_file(tmp_path / "large", (2 * int(LONGEST) + 10) * STEP)
    write_large_back([tmp_path, tmp_path], hurry)
    assert len(steps) == 2 * most


def test_what_the_kernel_holds_back_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"Cached:  9 kB\nDirty:   100 kB\nWriteback:  20 kB\nWritebackTmp:  3 kB\n"
    assert procfs.bytes_held_back() >= 0
    monkeypatch.setattr(procfs, "_read", lambda path: said)
    assert procfs.bytes_held_back() == 120 << 10
