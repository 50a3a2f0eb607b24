"""What an agent asks a shepherd for arrives as it was meant, whatever stands in it."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from actors.domain.limits import JobLimits
from node.confinement.grants import Grants
from node.confinement.passwd import Accounts
from node.executors.exec_script import Request
from node.executors.executor import ExecutorError, RunSpec
from node.executors.shepherd_executor import User, pack_request

BASH = "/bin/bash"
ROOT = User(0, 0, (), None, own=False)
ODD = {
    "EMPTY": "",
    "SIGNS": "a=b = c",
    "LINES": "one\ntwo\n",
    "BYTES": os.fsdecode(b"\xff\xfe"),
    "é": "ü",
}


def _spec(directory: Path) -> RunSpec:
    return RunSpec("k" * 32, directory, ODD, grace=2.5, options=("-e", "", "-u"), log_limit=1 << 12)


def _sent(spec: RunSpec, user: User, *, confined: bool, counted: bool = False) -> Request:
    directory = str(spec.directory)
    return Request(
        pack_request(spec, directory, "n" * 32, user, bash=BASH, confined=confined, counted=counted)
    )


@pytest.mark.parametrize("confined", [False, True])
def test_what_every_script_needs_arrives(tmp_path: Path, confined: bool) -> None:
    request = _sent(_spec(tmp_path), ROOT, confined=confined)
    place = os.fsencode(tmp_path)
    assert (request.key, request.name, request.nonce) == ("k" * 32, b"k" * 32, "n" * 32)
    assert (request.directory, request.work) == (place, place + b"/work")
    assert (request.grace, request.log_limit, request.uid) == (2.5, 1 << 12, -1)
    assert request.arguments == [BASH.encode(), b"-e", b"", b"-u", place + b"/work/run.sh"]
    assert request.environment == {os.fsencode(name): os.fsencode(value) for name, value in ODD.items()}
    assert (request.rlimits, request.limits, request.groups, request.entrances) == ([], {}, [], [])
    assert (request.read, request.write, request.devices, request.scratch) == ([], [], [], b"")


def test_what_one_is_given_arrives_where_something_is_kept_from_it(tmp_path: Path) -> None:
    for name in ("home", "progress"):
        (tmp_path / name).mkdir()
    grants = Grants(read=(Path("/a b"), Path("/c")), write=(Path("/d"),), network=True)
    spec = replace(_spec(tmp_path), grants=grants, devices=(Path("/dev/e"), Path("/dev/f")))
    user = User(7, 8, (9, 10), Accounts("job", "people:x\n", "groups:x\n"), own=True)
    request = _sent(spec, user, confined=True)
    place = os.fsencode(tmp_path)
    assert (request.uid, request.gid, request.groups) == (7, 8, [9, 10])
    assert (request.network, request.containers, request.scratch) == (True, False, place + b"/home")
    assert (request.passwd, request.group) == (b"people:x\n", b"groups:x\n")
    assert request.shared_memory > 1 << 20
    assert request.arguments[-1] == place + b"/work/run.sh"
    assert request.read == [b"/a b", b"/c"]
    assert request.write == [place + b"/progress", b"/d"]
    assert request.devices == [b"/dev/e", b"/dev/f"]
    assert (request.environment[b"USER"], request.environment[b"LOGNAME"]) == (b"job", b"job")
    assert request.environment[b"EMPTY"] == b"" and len(request.environment) == len(ODD) + 2


@pytest.mark.parametrize("counted", [False, True])
def test_limits_arrive(tmp_path: Path, counted: bool) -> None:
    limits = JobLimits(memory_bytes=1 << 30, cpu_seconds=1.5, processes=7, open_files=64)
    request = _sent(replace(_spec(tmp_path), limits=limits), ROOT, confined=False, counted=counted)
    assert request.limits == {
        "memory_bytes": 1 << 30,
        "cpu_seconds": 1.5,
        "processes": 7.0,
        "open_files": 64.0,
    }
    expected = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: 3, resource.RLIMIT_NOFILE: 64}
    assert dict(request.rlimits) == expected | ({resource.RLIMIT_NPROC: 7} if counted else {})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"A": "b", "C": "d\0e"}, r"a NUL byte in the environment or a path: 'C=d\\x00e'"),
        ({"A\0B": "c"}, r"a NUL byte in the environment or a path: 'A\\x00B=c'"),
        ({"": "a"}, "no environment variable can be called ''"),
        ({"A=B": "c"}, "no environment variable can be called 'A=B'"),
        ({"A": "b" * (160 << 10)}, "its environment is too large: [0-9]+ bytes in all, 163840 at most"),
    ],
)
def test_what_no_process_can_have_is_refused(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    with pytest.raises(ExecutorError, match=f"^{said}$"):
        _sent(replace(_spec(tmp_path), environment=environment), ROOT, confined=False)


def test_so_is_a_path(tmp_path: Path) -> None:
    grants = Grants(read=(Path("/a\0b"),))
    with pytest.raises(ExecutorError, match=r"or a path: '/a\\x00b'$"):
        _sent(replace(_spec(tmp_path), grants=grants, environment={}), ROOT, confined=True)
