"""Control groups: where they may be made, and what is written and read there, in both versions.

No machine of the tests has version 2 with controllers to give: there a directory stands for the kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.executors import control_groups
from node.executors.control_groups import CPU, MEMORY, PIDS, ControlGroups, places

V1 = b"""\
23 22 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
24 22 0:22 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
25 22 0:23 /docker/abc /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
26 22 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
27 22 0:25 / / rw - ext4 /dev/vda rw
"""
OWN_V1 = b"9:name=systemd:/\n4:memory:/user/7\n3:pids:/docker/abc/x\n2:cpu,cpuacct:/\n0::/\n"
V2 = b"30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_groups_are_made_below_our_own_and_in_version_2_rather_beside_it() -> None:
    found = places(V1, OWN_V1)
    assert found[MEMORY] == [(1, b"/sys/fs/cgroup/memory/user/7"), (2, b"/sys/fs/cgroup/unified")]
    assert found[PIDS] == [(1, b"/sys/fs/cgroup/pids/x"), (2, b"/sys/fs/cgroup/unified")]
    assert found[CPU] == [(1, b"/sys/fs/cgroup/cpu,cpuacct"), (2, b"/sys/fs/cgroup/unified")]
    found = places(V2, b"0::/system.slice/node.service/own\n")
    service = b"/sys/fs/cgroup/system.slice/node.service"
    assert found == {each: [(2, service), (2, service + b"/own")] for each in (MEMORY, PIDS, CPU)}
    found = places(V2, b"0::/system.slice/node.service\n")
    assert found == {each: [(2, service)] for each in (MEMORY, PIDS, CPU)}


@pytest.mark.parametrize("own", [b"", b"0::/../elsewhere\n", b"1:memory:/docker/other\n"])
def test_a_group_that_is_not_seen_here_is_no_place(own: bytes) -> None:
    mounts = (
        b"3 2 0:6 /docker/abc /m rw - cgroup2 cgroup2 rw\n5 2 0:2 /docker/abc /p rw - cgroup c rw,memory\n"
    )
    assert not any(places(mounts, own).values())


WRITTEN = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs")


FILES = {
    **{"cgroup.procs": "", "memory.max": "max\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n"},
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    **{"pids.max": "max\n", "pids.events": "max 0\n"},
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
}


class Kernel:
    """Fills new groups of version 2 with files, and takes these away with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        monkeypatch.setattr(control_groups.os, "mkdir", self.mkdir)
        monkeypatch.setattr(control_groups.os, "rmdir", self.rmdir)

    def mkdir(self, path: bytes, mode: int) -> None:
        self._mkdir(path, mode)
        for name, content in FILES.items():
            Path(os.fsdecode(path), name).write_text(content)

    def rmdir(self, path: bytes) -> None:
        for name in FILES:
            Path(os.fsdecode(path), name).unlink()
        self._rmdir(path)


def test_what_is_written_and_read_in_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch)
    place = (2, os.fsencode(tmp_path))
    group = ControlGroups(dict.fromkeys((MEMORY, PIDS, CPU), place), "job-").make("k", {MEMORY, PIDS, CPU})
    assert group is not None
    own = tmp_path / "job-k"
    group.limit_memory(5 << 20)
    group.limit_processes(7)
    for entrance in group.entrances:
        os.write(entrance, b"0")
    group.close()
    written = {name: (own / name).read_text() for name in WRITTEN}
    assert [text.partition("\n")[0] for text in written.values()] == ["5242880", "0ax", "1", "7ax", "0"]
    assert group.cpu_seconds() == 1.5
    told = (group.was_out_of_memory(), group.was_at_memory_limit(), group.was_at_process_limit())
    assert told == (False, False, False)
    (own / "memory.events").write_text("max 40\noom 0\noom_kill 1\n")
    assert (group.was_out_of_memory(), group.was_at_memory_limit()) == (True, False)
    (own / "memory.events").write_text("max 40\noom 2\noom_kill 1\n")
    (own / "pids.events").write_text("max 9\n")
    told = (group.was_out_of_memory(), group.was_at_memory_limit(), group.was_at_process_limit())
    assert told == (True, True, True)
    group.remove()
    assert not own.exists()


def test_groups_that_killed_shepherds_have_left_are_swept_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kernel(monkeypatch)
    groups = ControlGroups({MEMORY: (2, os.fsencode(tmp_path))}, "job-a-")
    other = ControlGroups({MEMORY: (2, os.fsencode(tmp_path))}, "job-b-")
    made = [groups.make("old", {MEMORY}), groups.make("new", {MEMORY}), other.make("old", {MEMORY})]
    now = time.time()
    for name in ("job-a-old", "job-b-old"):
        os.utime(tmp_path / name, (now - 100, now - 100))
    groups.sweep(now)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job-a-new", "job-b-old"]
    for group in made:
        assert group is not None
        group.close()


def test_what_cannot_be_made_or_has_no_such_controller_is_not_offered(tmp_path: Path) -> None:
    groups = ControlGroups({MEMORY: (2, os.fsencode(tmp_path / "gone"))}, "job-")
    assert groups.make("k", {PIDS}) is None
    with pytest.raises(FileNotFoundError):
        groups.make("k", {MEMORY})


def test_what_is_found_here_works_and_leaves_nothing() -> None:
    code = (
        "from node.executors.control_groups import find\n"
        "found = find('job-test-')\n"
        "group = found.make('k', set(found.controllers))\n"
        "print(*sorted(found.controllers), 'left' if group else '')\n"
        "if group: group.remove()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {MEMORY, PIDS, CPU, "left"}
    left = [place for place, _, _ in os.walk("/sys/fs/cgroup") if "job-test-" in place]
    assert left == []
