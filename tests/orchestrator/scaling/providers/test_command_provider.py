"""The provider `command`: what the operator's commands get, and what is made of what they say and do."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest
import trio
from support.processes.processes import gone

from actors.domain.scaling import Machine, UnreadableMachine
from actors.ports.scaling import ProviderError
from actors.process.command_run import OUTPUT_MOST
from orchestrator.config.scaling import CommandSettings
from orchestrator.scaling.providers.command import CommandProvider

TOKEN, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


def provider(
    *, create: str = "false", list_: str = "false", terminate: str = "false", deadline: float = 30.0
) -> CommandProvider:
    commands = CommandSettings(create, list_, terminate, deadline)
    return CommandProvider(commands, slots={"example": 3}, join_url="http://10.0.0.1:5000", owner="owner-1")


async def test_create_gets_the_token_and_where_to_join_and_says_the_id(tmp_path: Path) -> None:
    note = shlex.quote(str(tmp_path / "note"))
    told = " ".join(f"$ORCHESTRATOR_{name}" for name in ("TOKEN", "SERVICE", "JOIN_URL", "NAME", "SLOTS"))
    machine = await provider(create=f"echo {told} > {note}; echo vm-7").create(TOKEN, "example")
    assert machine == Machine("vm-7", TOKEN, "example", running=True, owner="owner-1")
    assert (tmp_path / "note").read_text() == f"{TOKEN} example http://10.0.0.1:5000 owner-1 3\n"


@pytest.mark.parametrize("said", ["", "two words", "a\\nb", "-rf", "caf\\303\\251", "\\377"])
async def test_a_create_that_says_no_id_is_an_error(said: str) -> None:
    with pytest.raises(ProviderError) as caught:
        await provider(create=f"printf '%b' '{said}'").create(TOKEN, "example")
    assert not caught.value.certain, "there may be a machine all the same"


async def test_list_tells_the_machines_of_every_service_and_whose_they_are() -> None:
    lines = f"""vm-1 {TOKEN} example owner-1 10.0.0.7

vm-2 {OTHER} example owner-1
vm-3 {OTHER} another owner-2
vm-4 {OTHER} example
"""
    machines = await provider(list_=f"printf %s {shlex.quote(lines)}").list()
    assert machines == [
        Machine("vm-1", TOKEN, "example", running=True, address="10.0.0.7", owner="owner-1"),
        Machine("vm-2", OTHER, "example", running=True, owner="owner-1"),
        Machine("vm-3", OTHER, "another", running=True, owner="owner-2"),
        Machine("vm-4", OTHER, "example", running=True),
    ]


async def test_a_list_that_ends_well_and_says_nothing_is_no_machine() -> None:
    assert await provider(list_="true").list() == []


@pytest.mark.parametrize(
    "said",
    [
        "Error: quota exceeded",
        "<html>502</html>",
        "vm-1",
        f"vm-1 {TOKEN}",
        f"-rf {TOKEN} example owner-1",
        f"vm-1 {TOKEN[:-1]} example owner-1",
        f"vm-1 {TOKEN} caf\N{LATIN SMALL LETTER E WITH ACUTE} owner-1",
        f"vm-1 {TOKEN} example owner-1 address more",
        f"vm-1 {TOKEN} example owner-1\nvm-1 {TOKEN} example owner-2",
        f"vm-1 {TOKEN} example owner-1\nvm-1 {OTHER} example owner-1",
    ],
)
@pytest.mark.parametrize("before", [True, False])
async def test_a_line_that_cannot_be_read_spoils_itself_alone_and_is_told(said: str, before: bool) -> None:
    good = f"vm-2 {OTHER} example owner-1"
    lines = f"{said}\n{good}" if before else f"{good}\n{said}"
    told = await provider(list_=f"printf '%s' {shlex.quote(lines)}").list()
    assert [one for one in told if isinstance(one, Machine)] == [
        Machine("vm-2", OTHER, "example", running=True, owner="owner-1")
    ]
    assert len([one for one in told if isinstance(one, UnreadableMachine)]) == 1


async def test_a_line_that_comes_twice_is_one_machine() -> None:
    line = f"vm-1 {TOKEN} example owner-1"
    told = await provider(list_=f"echo {line}; echo {line}").list()
    assert told == [Machine("vm-1", TOKEN, "example", running=True, owner="owner-1")]


async def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    failing = "echo one >&2; echo 'no quota left' >&2; echo >&2; exit 3"
    with pytest.raises(ProviderError, match=r"^list failed with exit code 3: no quota left$"):
        await provider(list_=failing).list()
    with pytest.raises(ProviderError, match=r"^create failed with signal 9$"):
        await provider(create="echo vm-1; kill -9 $$").create(TOKEN, "example")


async def test_a_command_that_says_too_much_is_an_error() -> None:
    with pytest.raises(ProviderError, match="said more than"):
        await provider(list_=f"head -c {OUTPUT_MOST + 1} /dev/zero").list()


async def test_a_flood_of_errors_holds_nothing_up() -> None:
    with pytest.raises(ProviderError, match=r"exit code 1: the end$"):
        await provider(list_="yes | head -c 1000000 >&2; echo the end >&2; exit 1").list()


@pytest.mark.parametrize("command", ["echo", 'echo "$@"', 'for id in "$@"; do echo $id; done'])
async def test_terminate_gets_the_ids_as_arguments(command: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    await provider(terminate=f"exec > {shlex.quote(str(note))}; {command}").terminate(["vm-1", "vm 2;$x"])
    assert note.read_text().split() == ["vm-1", "vm", "2;$x"]


async def test_nothing_is_run_to_terminate_nothing() -> None:
    await provider(terminate="false").terminate([])


async def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = shlex.quote(str(tmp_path / "pids"))
    stuck = f"trap '' TERM; sleep 1000 & echo $! $$ > {pids}; echo waiting for the cloud >&2; wait"
    with pytest.raises(ProviderError, match=r"list had not ended after 1 s and was killed: waiting for the"):
        await provider(list_=stuck, deadline=1.0).list()
    await gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


async def test_a_call_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    fifo, pids = tmp_path / "fifo", tmp_path / "pids"
    os.mkfifo(fifo)
    command = f"sleep 1000 & echo $! $$ > {shlex.quote(str(pids))}; : > {shlex.quote(str(fifo))}; wait"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider(create=command).create, TOKEN, "example")
        # Opening it waits until the command has come so far.
        await trio.to_thread.run_sync(fifo.read_bytes)
        nursery.cancel_scope.cancel()
    await gone([int(pid) for pid in pids.read_text().split()])


async def test_what_a_command_starts_and_leaves_lives_on() -> None:
    with trio.fail_after(60):
        machine = await provider(create="sleep 1000 & echo $!").create(TOKEN, "example")
    pid = int(machine.machine_id)
    os.kill(pid, signal.SIGTERM)
    await gone([pid])
