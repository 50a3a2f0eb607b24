"""The provider `local` with real node processes: made, found again after a kill, ended with all they have."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
import trio
from support.processes import local_provider_program
from support.processes.local_provider_program import OWNER
from support.processes.processes import PATIENCE, gone

from actors.domain.scaling import Machine, UnreadableMachine
from actors.ports.scaling import ProviderError
from actors.process.identity import ProcessIdentity, identify
from orchestrator.nodes.local_process import start_held
from orchestrator.scaling.providers import local
from orchestrator.scaling.providers.local import LocalProvider, joining

FIRST, SECOND = "0123456789abcdef" * 2, "fedcba9876543210" * 2


async def here() -> str:
    return "http://127.0.0.1:9"


Make = Callable[[], LocalProvider]


def new(
    directory: Path,
    options: Callable[[str, str, str], Sequence[str]] = joining,
    slots: Mapping[str, int] = MappingProxyType({}),
    owner: str = OWNER,
) -> LocalProvider:
    return LocalProvider(directory, slots=slots, join_url=here, owner=owner, joining=options)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "machines"


@pytest.fixture
async def make(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Providers on the same directory, whose nodes do not try to join anything, and serve this machine. All
    is ended afterwards."""
    monkeypatch.setenv("SERVERS", "127.0.0.1")
    made: list[LocalProvider] = []

    def new_provider() -> LocalProvider:
        made.append(new(directory, lambda *_: [], {"example": 2}))
        return made[-1]

    yield new_provider
    with trio.CancelScope(shield=True):
        for provider in made:
            await provider.end_all()


def pid_of(directory: Path, token: str) -> int:
    return int(json.loads((directory / token / "process.json").read_text())["pid"])


async def line_with(log: Path, wanted: str) -> str:
    """The first line of a growing file that has `wanted` in it."""
    with (
        trio.fail_after(PATIENCE),
        started(["tail", "-n", "+1", "-F", str(log)]) as tail,
    ):
        assert tail.stdout is not None
        try:
            async with trio.lowlevel.FdStream(os.dup(tail.stdout.fileno())) as output:
                said = b""
                async for piece in output:
                    said += piece
                    for line in said.decode().split("\n")[:-1]:
                        if wanted in line:
                            return line
        finally:
            tail.kill()
    raise AssertionError("tail ended")


def started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


async def url_of(directory: Path, token: str) -> str:
    said = await line_with(directory / token / "node.log", "listening on ")
    return said.partition("listening on ")[2].strip()


async def test_a_machine_is_a_node_that_listens_until_it_is_terminated(make: Make, directory: Path) -> None:
    provider = make()
    machine = await provider.create(FIRST, "example")
    assert machine == Machine(FIRST, FIRST, "example", running=True, owner=OWNER)
    url = await url_of(directory, FIRST)
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        info = (await client.get(f"{url}/v1/info")).json()
    assert info["slots"] == 2
    assert list(await provider.list()) == [machine]
    pid = pid_of(directory, FIRST)
    await provider.terminate([FIRST])
    await gone([pid])
    assert list(await provider.list()) == []
    assert os.listdir(directory) == []
    await provider.terminate([FIRST, SECOND])


async def test_the_same_token_again_is_the_same_machine(make: Make, directory: Path) -> None:
    provider = make()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(provider.create, FIRST, "example")
    pid = pid_of(directory, FIRST)
    await make().create(FIRST, "example")
    assert pid_of(directory, FIRST) == pid
    assert len(await provider.list()) == 1


async def test_only_what_is_named_is_terminated(make: Make, directory: Path) -> None:
    provider = make()
    await provider.create(FIRST, "example")
    await provider.create(SECOND, "another")
    await provider.terminate([FIRST, "../..", ""])
    assert list(await provider.list()) == [Machine(SECOND, SECOND, "another", running=True, owner=OWNER)]


async def test_machines_outlive_a_killed_orchestrator_and_the_next_one_finds_them(
    make: Make, directory: Path
) -> None:
    program = [sys.executable, local_provider_program.__file__, str(directory), FIRST, SECOND]
    with started(program) as orchestrator:
        assert orchestrator.stdout is not None
        assert await trio.to_thread.run_sync(orchestrator.stdout.readline) == b"made\n"
        orchestrator.kill()
    pids = [pid_of(directory, token) for token in (FIRST, SECOND)]
    provider = make()
    assert {machine.token for machine in await provider.list()} == {FIRST, SECOND}
    await provider.create(FIRST, "example")
    assert pid_of(directory, FIRST) == pids[0], "asked for again, it is the one that lives"
    await url_of(directory, FIRST)
    await provider.end_all()
    await gone(pids)
    assert os.listdir(directory) == []


async def test_a_node_nobody_has_on_record_never_begins(tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        process = start_held(["--data", str(tmp_path / "node"), "--port", "0"], log)
    assert process.stdin is not None
    # What its pipe sees when whoever started it is killed.
    with process, closing(process.stdin):
        pass
    assert process.returncode == 1
    assert "gone already" in (tmp_path / "log").read_text()
    assert not (tmp_path / "node").exists()


async def test_a_node_that_ended_by_itself_is_told_gone_with_its_last_words(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = new(directory, lambda *_: ["--no-such-option", "x"])
    await provider.create(FIRST, "example")
    await gone([pid_of(directory, FIRST)])
    with caplog.at_level(logging.ERROR, "orchestrator.scaling.local"):
        assert list(await provider.list()) == []
    assert f"machine {FIRST} ended by itself" in caplog.text and "--no-such-option" in caplog.text
    assert os.listdir(directory) == []


async def test_the_jobs_of_a_killed_node_end_with_its_machine(
    make: Make, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVERS", "127.0.0.1")
    monkeypatch.setenv("EXECUTOR", "bash")  # Its script tells outside of its directory how far it is.
    provider = make()
    await provider.create(FIRST, "example")
    url = await url_of(directory, FIRST)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        # Its id as the host sees it, wherever the script runs.
        script = f"exec 3< {tmp_path}; echo started > {fifo}; exec sleep 1000"
        await client.post(f"{url}/submit", files=[("file", ("run.sh", script.encode()))])
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)
    jobs = holding(tmp_path)
    assert jobs
    os.kill(pid_of(directory, FIRST), signal.SIGKILL)
    await gone([pid_of(directory, FIRST)])
    assert holding(tmp_path) == jobs, "a job outlives its node"
    assert list(await provider.list()) == []
    await gone(jobs)


def holding(directory: Path) -> list[int]:
    """Processes that have this directory open, this one excepted."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(directory) and int(link.parts[2]) != os.getpid():
                found.append(int(link.parts[2]))
        except OSError:
            continue
    return sorted(set(found))


async def test_a_process_that_has_the_id_by_now_is_left_alone(make: Make, directory: Path) -> None:
    mine = identify(os.getpid())
    assert mine is not None
    for token, name in (
        (FIRST, ProcessIdentity(mine.pid, mine.started - 1, mine.boot)),
        (SECOND, ProcessIdentity(mine.pid, mine.started, "another-boot")),
    ):
        (directory / token).mkdir(parents=True)
        words = {"pid": name.pid, "started": name.started, "boot": name.boot, "service": "example"}
        words["owner"] = OWNER
        (directory / token / "process.json").write_text(json.dumps(words))
        assert await name.end(), "told to end, it had ended already"
    provider = make()
    await provider.terminate([FIRST])
    assert list(await provider.list()) == []


DAMAGED = (
    "",
    "[]",
    '{"pid": "x"}',
    '{"pid": 1}',
    "[" * 100_000,
    "\0" * 200,
    "caf\udce9",
    None,
)


def damage(record: Path, text: str | None) -> None:
    """`None`: a directory in its place."""
    if text == "another's":
        shutil.copy(record.parents[1] / SECOND / record.name, record)
        return
    record.unlink()
    if text is None:
        record.mkdir()
    elif text == "huge":
        record.touch()
        os.truncate(record, 3 << 30)
    else:
        record.write_bytes(text.encode(errors="surrogateescape"))


@pytest.mark.parametrize("text", [*DAMAGED, "another's", "huge"])
async def test_a_damaged_record_spoils_its_own_machine_alone_and_that_one_can_be_ended(
    text: str | None, make: Make, directory: Path
) -> None:
    provider = make()
    await provider.create(FIRST, "example")
    second = await provider.create(SECOND, "example")
    pid = pid_of(directory, FIRST)
    damage(directory / FIRST / "process.json", text)
    told = await provider.list()
    assert [one for one in told if isinstance(one, Machine)] == [second]
    assert [one.text for one in told if isinstance(one, UnreadableMachine)]
    with pytest.raises(ProviderError):
        await provider.create(FIRST, "example")
    assert identify(pid) is not None, "nothing was ended for it"
    await provider.terminate([FIRST])
    await gone([pid])
    assert list(await provider.list()) == [second]


async def test_a_machine_whose_record_is_damaged_and_whose_node_is_gone_is_removed(
    make: Make, directory: Path
) -> None:
    (directory / FIRST).mkdir(parents=True)
    (directory / FIRST / "process.json").write_text("")
    assert list(await make().list()) == []
    assert os.listdir(directory) == []


@pytest.mark.parametrize("where", ["", "node.log", "node", "process.json.new"])
@pytest.mark.parametrize("way", ["a file", "a directory"])
async def test_whatever_stands_where_a_machine_was_holds_no_other_up(
    make: Make, directory: Path, where: str, way: str
) -> None:
    provider = make()
    second = await provider.create(SECOND, "example")
    path = directory / FIRST / where
    path.parent.mkdir(exist_ok=True)
    if way == "a file":
        path.write_bytes(b"\xff\0")
    else:
        (path / "in").mkdir(parents=True)
    assert list(await provider.list()) == [second]
    assert os.listdir(directory) == [SECOND]
    assert (await provider.create(FIRST, "example")).running


async def test_what_another_orchestrator_has_left_there_is_told_as_its_and_let_be(
    make: Make, directory: Path
) -> None:
    theirs = new(directory, lambda *_: [], owner="cd" * 16)
    other = await theirs.create(FIRST, "example")
    pid = pid_of(directory, FIRST)
    ours = make()
    assert list(await ours.list()) == [other] and other.owner == "cd" * 16
    await ours.end_all()
    with pytest.raises(ProviderError, match="another orchestrator"):
        await ours.terminate([FIRST])
    assert identify(pid) is not None
    await theirs.end_all()
    await gone([pid])


@pytest.fixture
def blocked(directory: Path) -> Iterator[Path]:
    directory.write_text("a file in its place")
    yield directory
    directory.unlink()


async def test_a_directory_that_cannot_be_made_is_told(blocked: Path) -> None:
    provider = new(blocked)
    with pytest.raises(ProviderError, match="could not start a node"):
        await provider.create(FIRST, "example")


async def test_what_is_no_token_makes_no_directory(make: Make, directory: Path) -> None:
    with pytest.raises(ProviderError, match="no token") as caught:
        await make().create("../../etc", "example")
    assert caught.value.certain
    assert directory.name not in os.listdir(directory.parent)


async def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with started([sys.executable, "-c", code]) as process:
        assert process.stdout is not None
        await trio.to_thread.run_sync(process.stdout.readline)
        name = identify(process.pid)
        assert name is not None and name.lives()
        assert not await name.end(patience=0.1)
        assert not name.lives(), "not reaped yet, it does not live"
    assert process.returncode == -signal.SIGKILL
    assert await name.end()


def test_a_node_is_told_where_and_as_what_it_joins() -> None:
    assert joining("http://127.0.0.1:5000", "example", FIRST) == [
        *("--join", "http://127.0.0.1:5000"),
        *("--join-services", "example"),
        *("--machine", FIRST),
    ]


@pytest.mark.parametrize(("memory", "found"), [(b"12 3", b"a\0"), (b"0 0", b"")])
def test_who_has_just_become_another_program_is_looked_at_again(
    memory: bytes, found: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter([b"", b"", b"a\0"])
    monkeypatch.setattr(Path, "read_bytes", lambda path: next(lines) if path.name == "cmdline" else memory)
    assert local._command_line(1) == found
