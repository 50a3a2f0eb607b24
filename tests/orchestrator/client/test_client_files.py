"""Which files a job is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.wire.multipart.writer import DataPart, FilePart
from orchestrator.client import Client
from orchestrator.client.errors import BadInput
from orchestrator.client.files import Files, parts
from orchestrator.client.retries import Retries, parse_retry_after


def sent(files: Files) -> list[str | None]:
    return [part.filename for part in parts(files)]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job" / "sub" / "deep").mkdir(parents=True)
    for name in ("run.sh", "sub/in.pdb", "sub/deep/x y"):
        (tmp_path / "job" / name).write_text(name)
    return tmp_path / "job"


def test_a_directory_alone_is_the_directory_of_the_job(job: Path) -> None:
    assert sent(job) == sent([job]) == sent(f"{job}/") == ["run.sh", "sub/in.pdb", "sub/deep/x y"]


def test_among_several_a_directory_keeps_its_name_and_a_file_its_base_name(job: Path) -> None:
    assert sent([job / "run.sh", job / "sub"]) == ["run.sh", "sub/in.pdb", "sub/deep/x y"]


def test_the_directory_that_one_is_in_may_be_sent(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job / "sub")
    assert sent(".") == ["in.pdb", "deep/x y"]
    assert sent([".", "../run.sh"]) == ["sub/in.pdb", "sub/deep/x y", "run.sh"]


def test_bytes_and_paths_are_sent_under_the_names_that_they_are_given(job: Path) -> None:
    found = parts({"run.sh": b"true", "a/b": job / "run.sh"})
    assert [(part.filename, isinstance(part, FilePart)) for part in found] == [
        ("run.sh", False),
        ("a/b", True),
    ]


def test_links_are_followed_but_not_in_circles(job: Path) -> None:
    (job / "sub" / "up").symlink_to(job)
    (job / "alias").symlink_to("sub/in.pdb")
    other = job.parent / "other"
    other.mkdir()
    (other / "f").write_text("f")
    (job / "more").symlink_to(other)
    assert sent(job) == ["alias", "run.sh", "more/f", "sub/in.pdb", "sub/deep/x y"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda top: [], "no file to submit"),
        (lambda top: [top / "missing"], "No such file"),
        (lambda top: [top / "a", top / "sub" / "a"], "sent twice"),
        (lambda top: [top / "fifo"], "is no file"),
        (lambda top: [top / "empty"], "no files in it"),
        (lambda top: [top / os.fsdecode(b"\xff")], "no UTF-8"),
        (lambda top: [top / "new\nline"], "control characters"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(tmp_path: Path, make: object, said: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty").mkdir()
    for name in (b"a", b"sub/a", b"\xff", b"new\nline"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    assert callable(make)
    with pytest.raises(BadInput, match=said):
        parts(make(tmp_path))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda client: client.job("163"), "'163' is no job; ids are whole numbers"),
        (lambda client: client.job(True), "True is no job"),
        (lambda client: client.wait(None), "None is no job"),
        (lambda client: submit(client, max_runtime="60"), "max_runtime is a number of seconds, not '60'"),
        (lambda client: submit(client, cpu_time=[1]), "cpu_time is a number of seconds"),
        (lambda client: submit(client, name=5), "name is a text, not 5"),
        (lambda client: submit(client, name="\ud800"), "name is no text that can be sent"),
        (lambda client: submit(client, tags="paper"), "tags is a list of texts, not 'paper'"),
        (lambda client: submit(client, tags=[1]), "tags is a list of texts"),
        (lambda client: submit(client, idempotency_key="a b"), "visible ASCII characters, not 'a b'"),
        (lambda client: submit(client, {"run.sh": "echo"}), "or give bytes for text"),
        (lambda client: submit(client, {"run.sh": 5}), "5 is no path, and no bytes"),
        (lambda client: submit(client, {5: b""}), "a file is called by a text, not 5"),
        (lambda client: submit(client, None), "files are paths, or what each is called"),
        (lambda client: submit(client, [None]), "None is no path"),
        (lambda client: submit(client, "a\0b"), "is no path"),
        (lambda client: submit(client, {"input": b""}), "there is no run.sh among the files"),
        (lambda client: list(client.jobs(since="today")), "since is a datetime, not 'today'"),
        (lambda client: list(client.jobs(status=5)), "status is a list of texts, not 5"),
        (lambda client: client.logs(1, tail="5"), "tail is a number of lines"),
    ],
)
def test_whatever_a_program_gives_by_mistake_is_bad_input(call: Callable[[Any], Any], said: str) -> None:
    """Nobody listens there: it is told before anybody is asked."""
    with Client("http://127.0.0.1:1", retries=Retries(tries=1)) as client, told(said):
        for _ in call(client) or ():
            pass


def told(said: str) -> Any:
    return pytest.raises(BadInput, match=re.escape(said))


def submit(client: Any, files: Any = None, **fields: Any) -> None:
    given = {"run.sh": b"true"} if fields else files
    client.submit(given, service="example", user=1, **fields)


def test_pauses_grow_are_spread_and_heed_what_the_server_asks_for() -> None:
    retries = Retries(first=1.0, longest=6.0)
    assert [retries.pause(tried, rng=lambda: 1.0) for tried in (1, 2, 3, 4, 99)] == [1, 2, 4, 6, 6]
    assert retries.pause(1, rng=lambda: 0.0) == 0.5
    assert retries.pause(1, parse_retry_after("7"), rng=lambda: 1.0) == 7
    assert retries.pause(1, parse_retry_after("99999999999999"), rng=lambda: 1.0) == 60
    assert parse_retry_after("Wed, 21 Oct 2026 07:28:00 GMT") is None


def test_a_file_that_says_it_is_empty_is_read_to_its_end(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    made = {part.filename: part for part in parts([Path("/proc/cpuinfo"), empty])}
    assert isinstance(made["cpuinfo"], DataPart) and b"processor" in made["cpuinfo"].data
    assert isinstance(made["empty"], DataPart) and made["empty"].data == b""
