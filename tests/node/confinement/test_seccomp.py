"""What a filter refuses is really tried, and what it lets through runs."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from node.confinement import seccomp
from node.confinement.seccomp import ON_THE_NETWORK, Filter, make_filter, supports

HERE: Final = Path(__file__).parent
MACHINE: Final = os.uname().machine
X86: Final = pytest.mark.skipif(MACHINE != "x86_64", reason="numbers of x86_64")
TABLES: Final = {
    "never": seccomp._NEVER,
    "containers": seccomp._OF_CONTAINERS,
    "owners": seccomp._OF_OWNERS,
    "truncation": seccomp._OF_TRUNCATION,
}
NOTHING: Final = {"truncation": False}
EVERY_CALL: Final = {name: line for table in TABLES.values() for name, line in table.items()}
INCLUDES: Final = (Path("/usr/include/x86_64-linux-gnu/asm"), Path("/usr/include/asm"))
BAD: Final = (2**64 - 1,) * 6

pytestmark = pytest.mark.skipif(not supports(MACHINE), reason="no filter for this machine")


def under_filter(
    options: Mapping[str, Any], *command: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    launcher = [
        sys.executable,
        "-I",
        "-S",
        str(HERE / "under_filter.py"),
        json.dumps({"domains": [], **options}),
    ]
    return subprocess.run(
        [*launcher, *command], input=stdin, capture_output=True, text=True, check=False, timeout=120
    )


def call(options: Mapping[str, Any] | None, *calls: tuple[int, ...], bits: str = "") -> list[int]:
    """The errors of calls under a filter, or under none."""
    command = [sys.executable, "-I", "-S", str(HERE / "kernel_calls.py"), *([bits] if bits else [])]
    if options is None:
        done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, check=False)
    else:
        done = under_filter(options, *command, stdin=json.dumps(calls))
    if bits and done.returncode == -signal.SIGSEGV:
        pytest.skip("this kernel runs no 32-bit programs")
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert isinstance(errors, list)
    return errors


def column(place: int) -> dict[str, tuple[int, int]]:
    """The refused calls of an architecture: what each fails with, and its number."""
    found = {}
    for name, (error, *numbers) in EVERY_CALL.items():
        number = numbers[place]
        if number is not None:
            found[name] = (error, number)
    return found


def python(options: Mapping[str, Any], code: str) -> str:
    done = under_filter(options, sys.executable, "-I", "-S", "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("place", "header"), [(0, "unistd_64.h"), (1, "unistd_32.h"), (2, "unistd.h")])
def test_numbers_are_those_of_the_kernels_headers(place: int, header: str) -> None:
    places = (Path("/usr/include/asm-generic"),) if place == 2 else INCLUDES
    file = next((each / header for each in places if (each / header).exists()), None)
    if file is None:
        pytest.skip(f"no {header} here")
    defined = dict(re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", file.read_text(), re.MULTILINE))
    ours = {name: number for name, (_, number) in column(place).items()}
    by_arguments: dict[str, tuple[int | None, ...]] = {"clone": seccomp._CLONE, "socket": seccomp._SOCKET}
    by_arguments |= {
        "prlimit64": seccomp._PRLIMIT,
        "ioctl": seccomp._IOCTL,
        "socketpair": seccomp._SOCKETPAIR,
        "fcntl": tuple(numbers[0] for numbers in seccomp._FCNTL),
        "fcntl64": tuple(numbers[1] if len(numbers) > 1 else None for numbers in seccomp._FCNTL),
        "personality": seccomp._PERSONALITY,
        "openat": seccomp._OPENAT,
    }
    if place != 2:
        by_arguments["open"] = seccomp._OPEN
    ours |= {name: number for name, numbers in by_arguments.items() if (number := numbers[place])}
    newer = {"setxattrat", "removexattrat", "open_tree_attr", "file_setattr"}
    assert {name: number for name, number in ours.items() if name in defined} == {
        name: int(defined[name]) for name in ours if name in defined
    }
    assert ours.keys() - defined.keys() <= newer
    missing = {name for name in EVERY_CALL if name in defined and name not in ours}
    # Numbers that are kept in the common header for 32 bits and for nobody.
    assert missing <= ({"clock_settime64", "clock_adjtime64"} if place == 2 else set())


@X86
@pytest.mark.parametrize(("place", "bits"), [(0, ""), (1, "32")])
def test_every_refused_call_fails_as_the_table_says(place: int, bits: str) -> None:
    refused = column(place)
    arguments = BAD if not bits else BAD[:2]
    errors = call(NOTHING, *((number, *arguments) for _, number in refused.values()), bits=bits)
    assert dict(zip(refused, errors, strict=True)) == {name: error for name, (error, _) in refused.items()}


@X86
@pytest.mark.parametrize("bits", ["", "32"])
def test_without_a_filter_the_kernel_answers_otherwise(bits: str) -> None:
    """Else the test above could not fail. Calls are left out that this kernel, or this user, never gets."""
    refused = column(1 if bits else 0)
    arguments = BAD if not bits else BAD[:2]
    errors = call(None, *((number, *arguments) for _, number in refused.values()), bits=bits)
    other = {
        name
        for (name, (error, _)), got in zip(refused.items(), errors, strict=True)
        if got not in (error, errno.ENOSYS, errno.EPERM)
    }
    assert {"setxattr", "chown"} <= other


@X86
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({**NOTHING, "containers": True}, "containers"),
        ({**NOTHING, "owners": True}, "owners"),
        ({"truncation": True}, "truncation"),
    ],
)
def test_what_is_granted_reaches_the_kernel(options: Mapping[str, Any], allowed: str) -> None:
    """The same answers as without a filter, for these calls alone."""
    numbers = {name: (error, number) for name, (error, number) in column(0).items()}
    calls = [(number, *BAD) for _, number in numbers.values()]
    free, filtered = call(None, *calls), call(options, *calls)
    for (name, (error, _)), without, under in zip(numbers.items(), free, filtered, strict=True):
        assert under == (without if name in TABLES[allowed] else error), name


@X86
def test_clone_makes_no_namespaces_and_makes_processes() -> None:
    clone = seccomp._CLONE[0]
    spaces = (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
    # With a contradiction among the flags, which the kernel refuses: nothing is ever cloned here.
    wrong = 0x10000
    calls = [(clone, space | wrong, 0, 0, 0, 0) for space in (*spaces, 0)]
    assert call({}, *calls) == [errno.EPERM] * 7 + [errno.EINVAL]
    assert call({"containers": True}, *calls) == call(None, *calls)
    assert call({}, (seccomp._CLONE[1], 0x10000000), bits="32") == [errno.EPERM]


@X86
def test_sockets_are_of_the_domains_that_are_named() -> None:
    number = seccomp._SOCKET[0]
    domains = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, 38, 40)  # …, ALG, VSOCK
    calls = [(number, domain, socket.SOCK_DGRAM, 0) for domain in domains]
    no = errno.EAFNOSUPPORT
    assert call({}, *calls) == [no] * 6
    free = call(None, *calls)
    assert call({"domains": sorted(ON_THE_NETWORK)}, *calls) == [no, *free[1:3], no, no, no]
    assert call({"domains": [socket.AF_UNIX]}, *calls) == [free[0], *[no] * 5]
    # The kernel looks at 32 bits of a domain.
    assert call({}, (number, (1 << 32) | socket.AF_INET, socket.SOCK_DGRAM, 0)) == [no]
    assert call({}, (seccomp._SOCKET[1], socket.AF_INET, socket.SOCK_DGRAM), bits="32") == [no]
    assert python({}, "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))") == "b'x'"


@X86
def test_pairs_of_sockets_reach_nobody_but_each_other() -> None:
    """One of datagrams sends to every socket in the file system."""
    number, stream, datagram, raw, sequence = seccomp._SOCKETPAIR[0], 1, 2, 3, 5
    kinds = [stream, sequence, stream | socket.SOCK_CLOEXEC, datagram, raw, datagram | socket.SOCK_NONBLOCK]
    calls = [(number, socket.AF_UNIX, kind, 0, 0) for kind in kinds]
    refused, reached = errno.ESOCKTNOSUPPORT, errno.EFAULT
    assert call({}, *calls) == [reached] * 3 + [refused] * 3
    assert call({"domains": [socket.AF_UNIX]}, *calls) == [reached] * 6
    others = [(number, domain, stream, 0, 0) for domain in (socket.AF_INET, 30, 38)]  # …, TIPC, ALG
    assert call({"domains": [socket.AF_UNIX]}, *others) == [errno.EAFNOSUPPORT] * 3
    narrow = [(seccomp._SOCKETPAIR[1], socket.AF_UNIX, kind) for kind in (stream, datagram)]
    assert call({}, *narrow, bits="32") == [reached, refused]


@X86
def test_nobody_makes_others_wait_who_open_a_file() -> None:
    descriptor, get_flags = 10**6, 3
    for place, bits in ((0, ""), (1, "32")):
        for number in seccomp._FCNTL[place]:
            calls = [(number, descriptor, command) for command in (*seccomp._LEASES, get_flags)]
            assert call({}, *calls, bits=bits) == [errno.EPERM, errno.EPERM, errno.EBADF]


@X86
def test_flags_of_files_are_changed_where_owners_may_be() -> None:
    number, descriptor, read_flags = seccomp._IOCTL[0], 10**6, 0x80086601
    calls = [(number, descriptor, request, 0) for request in (*seccomp._IOCTLS_OF_OWNERS, read_flags)]
    assert call({}, *calls) == [errno.EPERM] * 6 + [errno.EBADF]
    assert call({"owners": True}, *calls) == [errno.EBADF] * 7


@X86
def test_nobody_types_for_the_terminal_also_not_by_a_number_of_more_bits() -> None:
    number, descriptor = seccomp._IOCTL[0], 10**6
    tiocsti, tioclinux, tcgets = 0x5412, 0x541C, 0x5401
    calls = [
        (number, descriptor, request, 0) for request in (tiocsti, (1 << 32) | tiocsti, tioclinux, tcgets)
    ]
    assert call({}, *calls) == [errno.EPERM] * 3 + [errno.EBADF]


@X86
def test_personalities_are_the_usual_ones() -> None:
    number = seccomp._PERSONALITY[0]
    read_implies_exec = 0x0400000
    calls = [(number, each) for each in (0xFFFFFFFF, 0x40000, 8, 0, read_implies_exec)]
    assert call({}, *calls) == [*call(None, *calls[:-1]), errno.EPERM]


@X86
def test_what_is_not_opened_to_be_written_is_not_truncated(tmp_path: Path) -> None:
    file = tmp_path / "file"
    code = """
import os, sys
file = sys.argv[1]
def opened(flags):
    try:
        os.close(os.open(file, flags))
    except OSError as error:
        return error.errno
    return 0
print([opened(os.O_TRUNC | how) for how in (os.O_RDONLY, os.O_ACCMODE, os.O_RDWR, os.O_WRONLY)])
"""
    for options, refused in (({}, 0), (NOTHING, errno.EACCES)):
        file.write_text("content")
        done = under_filter(options, sys.executable, "-I", "-S", "-c", code, str(file))
        assert json.loads(done.stdout) == [refused, refused, 0, 0], done.stderr
    truncating, writing = 0x200, 0x201
    calls = [(seccomp._OPEN[1], 0, flags) for flags in (truncating, writing)]
    assert call(NOTHING, *calls, bits="32") == [errno.EACCES, errno.EFAULT]


@X86
def test_limits_are_changed_of_nobody_else() -> None:
    """Where others of the same user are in reach."""
    calls = [(seccomp._PRLIMIT[0], pid, 7, 0, 0) for pid in (0, os.getpid(), 1 << 32)]
    assert call({}, *calls) == [0, errno.EPERM, 0]
    assert call({"owners": True}, *calls) == [0, errno.EPERM, 0]
    assert call({"limits": True}, *calls) == [0, 0, 0]


@X86
def test_numbers_of_x32_are_those_of_no_call() -> None:
    getpid, x32 = 39, 0x40000000
    assert call({}, (x32 | getpid,), (getpid,), (2**31 - 1,)) == [errno.ENOSYS, 0, errno.ENOSYS]


def interpret(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel makes of a program: for what this machine does not run."""
    data = b"".join(
        each.to_bytes(size, "little")
        for each, size in ((number, 4), (architecture, 4), (0, 8), *((word, 8) for word in arguments))
    ).ljust(64, b"\0")
    at, loaded = 0, 0
    while True:
        code, then, otherwise, value = (
            int.from_bytes(program[at * 8 + a : at * 8 + b], "little")
            for a, b in ((0, 2), (2, 3), (3, 4), (4, 8))
        )
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            loaded = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x54:
            loaded &= value
        elif code == 0x05:
            at += value
        else:
            tests: dict[int, Callable[[], bool]] = {
                0x15: lambda: loaded == value,  # noqa: B023  # called at once
                0x35: lambda: loaded >= value,  # noqa: B023
                0x45: lambda: bool(loaded & value),  # noqa: B023
            }
            at += then if tests[code]() else otherwise


@pytest.mark.parametrize("containers", [False, True])
@pytest.mark.parametrize("other", [{}, {"owners": True}, {"truncation": False}], ids=str)
@pytest.mark.parametrize(
    ("machine", "architecture", "place"),
    [("x86_64", 0xC000003E, 0), ("x86_64", 0x40000003, 1), ("aarch64", 0xC00000B7, 2)],
)
def test_every_number_of_every_machine_is_decided_as_in_the_tables(
    machine: str, architecture: int, place: int, other: dict[str, bool], containers: bool
) -> None:
    allowed = {"containers": containers, "owners": False, "truncation": True} | other
    program = make_filter(machine, ON_THE_NETWORK, **allowed)
    names = {name for table, lines in TABLES.items() if not allowed.get(table) for name in lines}
    refused = {number: error for name, (error, number) in column(place).items() if name in names}
    socket_number = seccomp._SOCKET[place]
    by_domain = (socket_number, seccomp._SOCKETPAIR[place])
    for number in range(600):
        error = errno.EAFNOSUPPORT if number in by_domain else refused.get(number)
        expected = 0x7FFF0000 if error is None else 0x50000 | error
        assert interpret(program, architecture, number) == expected, number
    for domain in ON_THE_NETWORK:
        assert interpret(program, architecture, socket_number, domain) == 0x7FFF0000
    new_user = interpret(program, architecture, seccomp._CLONE[place], 0x10000000)
    assert new_user == (0x7FFF0000 if containers else 0x50000 | errno.EPERM)


def test_another_machines_programs_are_killed() -> None:
    arm, getpid = 0x40000028, 20
    assert interpret(make_filter("aarch64", ()), arm, getpid) == 0x80000000
    assert interpret(make_filter("x86_64", ()), 0xC00000B7, getpid) == 0x80000000


def test_there_is_none_for_a_machine_without_a_table() -> None:
    assert not supports("riscv64")
    with pytest.raises(KeyError):
        make_filter("riscv64", ())


def test_what_the_kernel_does_not_take_is_an_error() -> None:
    code = (
        "import os, sys; sys.path.append(os.getcwd())\n"
        "from node.confinement.seccomp import Filter\n"
        f"Filter({MACHINE!r}, bytes(8)).install()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[2], capture_output=True, text=True, check=False
    )
    # What comes first is that who is not root has to have given up new privileges.
    assert re.search(r"\[Errno (13|22)\] seccomp", done.stderr)
    assert Filter(MACHINE, make_filter(MACHINE, ()))


def test_a_script_with_threads_and_processes_runs() -> None:
    code = """
import ctypes, multiprocessing, os, subprocess, sys, tempfile, threading, concurrent.futures

def square(number):
    return number * number

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=os.getcwd)
    process.start(); process.join(); assert process.exitcode == 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(square, range(9)))[8] == 64
    assert subprocess.check_output(["bash", "-c", "sleep 0 & wait; echo done | cat"]) == b"done\\n"
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    assert os.close(os.memfd_create("x")) is None
    buffer, into = ctypes.create_string_buffer(b"read"), ctypes.create_string_buffer(5)
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    here, there = Vector(ctypes.addressof(into), 5), Vector(ctypes.addressof(buffer), 5)
    assert ctypes.CDLL(None).process_vm_readv(
        os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == 5
    assert into.value == b"read"
    print("all of it")
"""
    assert python({}, code) == "all of it"


def test_copying_and_unpacking_go_on(tmp_path: Path) -> None:
    script = """
set -e
cd "$1"
echo text > a; chmod +x a; touch -d 2020-01-01 a
cp -p a b; cp -a a c; install -m 600 a d; mv d e
tar --no-same-owner -cf t.tar a b; mkdir u; tar --no-same-owner -C u -xpf t.tar
test -x u/a; test "$(stat -c %Y u/a)" = "$(stat -c %Y a)"; ln -s a l; mkfifo f
! chown 12345 a 2>/dev/null
"""
    done = under_filter({}, "bash", "-c", script, "bash", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
