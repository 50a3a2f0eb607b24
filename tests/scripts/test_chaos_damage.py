"""The faults of a chaos run do to files, disks and processes what they say."""

from __future__ import annotations

import os
import random
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio
from testbed.chaos.damage import OF_A_NODE, WAYS, tear
from testbed.chaos.diary import Diary
from testbed.chaos.machines import Machine
from testbed.cluster import Member, start
from trio.testing import wait_all_tasks_blocked

KEY = "a" * 32
CONTENT = b"0123456789"
LEFT = {"cut in half": b"01234", "emptied": b"", "zeroed": bytes(10), "removed": None}


@pytest.mark.parametrize("way", WAYS)
def test_one_file_is_torn_and_it_is_known_whose(tmp_path: Path, way: str) -> None:
    record, other = tmp_path / "payloads" / KEY / "record.json", tmp_path / "payloads" / KEY / "work"
    other.mkdir(parents=True)
    record.write_bytes(CONTENT)
    (other / "record.json").write_bytes(CONTENT)
    torn = tear(tmp_path, OF_A_NODE, way, random.Random(1))
    assert torn is not None
    assert (torn.path, torn.kind, torn.way, torn.key) == (record, "payloads/*/record.json", way, KEY)
    assert (record.read_bytes() if record.exists() else None) == LEFT[way]
    assert (other / "record.json").read_bytes() == CONTENT


def test_each_kind_of_file_has_its_turn(tmp_path: Path) -> None:
    (tmp_path / "tombstones").mkdir()
    for number in range(100):
        (tmp_path / "tombstones" / f"{number:032x}").write_bytes(CONTENT)
    (tmp_path / "node.json").write_bytes(CONTENT)
    rng = random.Random(1)
    kinds = [torn.kind for _ in range(20) if (torn := tear(tmp_path, OF_A_NODE, "emptied", rng))]
    assert set(kinds) == {"tombstones/*", "node.json"} and len(kinds) == 20


def test_where_there_is_no_file_none_is_torn(tmp_path: Path) -> None:
    assert tear(tmp_path, OF_A_NODE, "emptied", random.Random(1)) is None


USE_UP = """
import os, sys, trio
from pathlib import Path
from testbed.chaos.disks import Disks

place = Path(sys.argv[1]) / "disk"
disks = Disks({place: 100})
(place / "kept").write_text("kept")

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disks.use_up, place, 1.0)
        await trio.sleep(0.5)
        try:
            (place / "one more").touch()
        except OSError as error:
            print("full", error.errno)
    (place / "one more").touch()
    print("again", await disks.use_up(place, 0.1))

trio.run(main)
disks.take_down(keep=True)
print(sorted(os.listdir(place)))
"""


def test_inodes_are_used_up_and_given_back_and_what_is_on_the_disk_can_be_kept(tmp_path: Path) -> None:
    command = ["unshare", "-rm", sys.executable, "-c", USE_UP, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    assert ended.stdout == "full 28\nagain True\n['kept', 'one more']\n"
    assert (tmp_path / "disk" / "kept").read_text() == "kept"


@asynccontextmanager
async def kept(directory: Path, url: str) -> AsyncIterator[tuple[Machine, Diary]]:
    """A machine that says it listens there, and then does nothing. It opens nothing either: while it had no
    descriptors it would not find a library, and end."""
    says = ["sh", "-c", f"echo listening on {url}; while :; do kill -STOP $$; done"]
    diary = Diary(directory / "diary")

    def launch() -> Member:
        return start("one", [], {}, directory, command=says)

    machine = Machine("one", diary, launch, lambda _url: None, lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.keep)
        try:
            yield machine, diary
        finally:
            nursery.cancel_scope.cancel()
            assert machine.member is not None
            machine.member.process.kill()
    with machine.member.process:
        pass


async def test_machine_has_to_answer_unless_it_was_away_again_meanwhile(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        async with kept(tmp_path, f"http://{host}:{port}") as (machine, diary):
            await machine.up()
            assert not await machine.answers_again(0.1)

            async def disturb() -> None:
                # Begins when the other first waits, however slow the machine is.
                diary.away("one", "stopped")
                diary.back("one", "stopped")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(disturb)
                assert await machine.answers_again(0.5)


async def test_descriptors_are_taken_from_a_process_and_given_back(tmp_path: Path) -> None:
    async with kept(tmp_path, "http://nowhere") as (machine, _):
        async with trio.open_nursery() as starving:
            starving.start_soon(machine.starve, 0.4)  # as soon as it listens
            starving.start_soon(machine.starve, 0.1)  # one after the other
            await machine.up()
            process = psutil.Process(machine.pid)
            await wait_all_tasks_blocked()
            assert process.rlimit(psutil.RLIMIT_NOFILE)[0] == process.num_fds()
        assert process.rlimit(psutil.RLIMIT_NOFILE) == resource.getrlimit(resource.RLIMIT_NOFILE)
