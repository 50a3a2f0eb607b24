"""Which calls of the kernel a script may make: programs for seccomp, and how one is installed.

A list of what no script needs, everything else is allowed: what is new in a kernel must not break a script
that was built for it. Programs come as bytes, as `bwrap --seccomp` takes them. Made once, at a start.

Left allowed on purpose: `process_vm_readv` and its like (MPI between processes of a node), `mbind`,
`set_mempolicy` and affinities (MPI, GROMACS), `ptrace` (debuggers; other users' processes, those out of
sight of a pid namespace and those outside of a Landlock domain are closed to it by the kernel).

Imported by the shepherd: standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable

_X86_64, _I386, _AARCH64 = range(3)
"""Columns of the tables below."""

# The lines of a table: the call, what it fails with, its number for x86_64, i386, aarch64. The error is one
# that programs know from kernels without the call, where there is one: they do without it then.
_NEVER: dict[str, tuple[int, int | None, int | None, int | None]] = {
    # Its flags are out of a filter's sight; glibc and others fall back to `clone`.
    "clone3": (errno.ENOSYS, 435, 435, 435),
    # So is the domain of a socket here. A 32-bit program whose libc knows no other way has no sockets.
    "socketcall": (errno.ENOSYS, None, 102, None),
    "add_key": (errno.ENOSYS, 248, 286, 217),
    "request_key": (errno.ENOSYS, 249, 287, 218),
    "keyctl": (errno.ENOSYS, 250, 288, 219),
    "io_uring_setup": (errno.ENOSYS, 425, 425, 425),
    "io_uring_enter": (errno.ENOSYS, 426, 426, 426),
    "io_uring_register": (errno.ENOSYS, 427, 427, 427),
    "bpf": (errno.EPERM, 321, 357, 280),
    "userfaultfd": (errno.EPERM, 323, 374, 282),
    "perf_event_open": (errno.EPERM, 298, 336, 241),
    "fanotify_init": (errno.EPERM, 300, 338, 262),
    "fanotify_mark": (errno.EPERM, 301, 339, 263),
    "name_to_handle_at": (errno.EOPNOTSUPP, 303, 341, 264),
    "open_by_handle_at": (errno.EPERM, 304, 342, 265),
    "init_module": (errno.EPERM, 175, 128, 105),
    "finit_module": (errno.EPERM, 313, 350, 273),
    "delete_module": (errno.EPERM, 176, 129, 106),
    "kexec_load": (errno.EPERM, 246, 283, 104),
    "kexec_file_load": (errno.EPERM, 320, None, 294),
    "reboot": (errno.EPERM, 169, 88, 142),
    "swapon": (errno.EPERM, 167, 87, 224),
    "swapoff": (errno.EPERM, 168, 115, 225),
    "acct": (errno.EPERM, 163, 51, 89),
    "quotactl": (errno.EPERM, 179, 131, 60),
    "quotactl_fd": (errno.EPERM, 443, 443, 443),
    "syslog": (errno.EPERM, 103, 103, 116),
    "vhangup": (errno.EPERM, 153, 111, 58),
    "settimeofday": (errno.EPERM, 164, 79, 170),
    "stime": (errno.EPERM, None, 25, None),
    "clock_settime": (errno.EPERM, 227, 264, 112),
    "clock_settime64": (errno.EPERM, None, 404, None),
    "clock_adjtime": (errno.EPERM, 305, 343, 266),
    "clock_adjtime64": (errno.EPERM, None, 405, None),
    "adjtimex": (errno.EPERM, 159, 124, 171),
    "iopl": (errno.EPERM, 172, 110, None),
    "ioperm": (errno.EPERM, 173, 101, None),
    "vm86": (errno.EPERM, None, 166, None),
    "vm86old": (errno.EPERM, None, 113, None),
    "uselib": (errno.ENOSYS, 134, 86, None),
    "lookup_dcookie": (errno.EPERM, 212, 253, 18),
}
_OF_CONTAINERS: dict[str, tuple[int, int | None, int | None, int | None]] = {
    "unshare": (errno.EPERM, 272, 310, 97),
    "setns": (errno.EPERM, 308, 346, 268),
    "mount": (errno.EPERM, 165, 21, 40),
    "umount": (errno.EPERM, None, 22, None),
    "umount2": (errno.EPERM, 166, 52, 39),
    "pivot_root": (errno.EPERM, 155, 217, 41),
    "chroot": (errno.EPERM, 161, 61, 51),
    "open_tree": (errno.EPERM, 428, 428, 428),
    "open_tree_attr": (errno.EPERM, 467, 467, 467),
    "move_mount": (errno.EPERM, 429, 429, 429),
    "fsopen": (errno.EPERM, 430, 430, 430),
    "fsconfig": (errno.EPERM, 431, 431, 431),
    "fsmount": (errno.EPERM, 432, 432, 432),
    "fspick": (errno.EPERM, 433, 433, 433),
    "mount_setattr": (errno.EPERM, 442, 442, 442),
    "sethostname": (errno.EPERM, 170, 74, 161),
    "setdomainname": (errno.EPERM, 171, 121, 162),
}
# Landlock lets whoever may read a file change these; the owner of the files is who runs the script. Programs
# that copy or unpack go on without them. `chmod` and times are left: scripts cannot do without.
_OF_OWNERS: dict[str, tuple[int, int | None, int | None, int | None]] = {
    "setxattr": (errno.EOPNOTSUPP, 188, 226, 5),
    "lsetxattr": (errno.EOPNOTSUPP, 189, 227, 6),
    "fsetxattr": (errno.EOPNOTSUPP, 190, 228, 7),
    "setxattrat": (errno.EOPNOTSUPP, 463, 463, 463),
    "removexattr": (errno.EOPNOTSUPP, 197, 235, 14),
    "lremovexattr": (errno.EOPNOTSUPP, 198, 236, 15),
    "fremovexattr": (errno.EOPNOTSUPP, 199, 237, 16),
    "removexattrat": (errno.EOPNOTSUPP, 466, 466, 466),
    "file_setattr": (errno.EOPNOTSUPP, 469, 469, 469),
    "chown": (errno.EPERM, 92, 182, None),
    "chown32": (errno.EPERM, None, 212, None),
    "lchown": (errno.EPERM, 94, 16, None),
    "lchown32": (errno.EPERM, None, 198, None),
    "fchown": (errno.EPERM, 93, 95, 55),
    "fchown32": (errno.EPERM, None, 207, None),
    "fchownat": (errno.EPERM, 260, 298, 54),
}
# Landlock before its version 3 refuses to write what may only be read, and not to truncate it.
_OF_TRUNCATION: dict[str, tuple[int, int | None, int | None, int | None]] = {
    "truncate": (errno.EACCES, 76, 92, 45),
    "truncate64": (errno.EACCES, None, 193, None),
    "openat2": (errno.ENOSYS, 437, 437, 437),  # its flags are out of a filter's sight
}
# By their arguments.
_OPEN = (2, 5, None)
_OPENAT = (257, 295, 56)
_CLONE = (56, 120, 220)
_SOCKET = (41, 359, 198)
_SOCKETPAIR = (53, 360, 199)
_FCNTL = ((72,), (55, 221), (25,))
_IOCTL = (16, 54, 29)
_PERSONALITY = (135, 136, 92)
_PRLIMIT = (302, 340, 261)

_CLONE_NEW = 0x7E020000
"""All `CLONE_NEW…` that `clone` has: of mounts, cgroups, hosts' names, IPC, users, pids, networks."""
_IOCTLS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: to type for whoever sits at the terminal."""
_IOCTLS_OF_OWNERS = (0x40086602, 0x40046602, 0x401C5820, 0x40087602, 0x40047602, 0x40806685)
"""FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_SETVERSION and FS_IOC_ENABLE_VERITY, the first and the third
also as 32-bit programs say them: an owner needs no right to write for these."""
_LEASES = (1024, 1040)
"""F_SETLEASE and F_SETDELEG: whoever opens the file then waits, for up to 45 s."""
_CONNECTED = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
"""Pairs of these reach nobody but each other. One of datagrams sends to every socket that has a name."""
_KIND = 0xF
"""Of the second argument of `socketpair`, without its flags."""
_PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
"""What `uname` calls the machine (32 bits, 2.6), addresses that stay the same (`setarch -R`), and to ask."""

_TRUNCATING = 0x203
"""Of the flags of `open`, the one to truncate and those that say whether it is opened to be written."""
_NOT_TO_WRITE = (0x200, 0x203)
"""What it truncates all the same."""

ON_THE_NETWORK = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK})
"""Domains of sockets for who may reach the network."""

_ARCHITECTURES = {
    # machine: for each of its tables what the kernel calls it, and its column
    "x86_64": ((0xC000003E, _X86_64), (0x40000003, _I386)),
    "aarch64": ((0xC00000B7, _AARCH64),),  # 32-bit programs are killed: nobody has tried a table for them
}
_SECCOMP: dict[str, int] = {"x86_64": 317, "aarch64": 277}
_X32 = 0x40000000

# Instructions of classic BPF, and where the kernel shows a call's number, architecture and arguments.
_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """`then` and `otherwise`: how many instructions a comparison skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _fail(error: int) -> bytes:
    return _instruction(_RETURN, _ERROR | error)


_PASS = _instruction(_RETURN, _ALLOW)


def _load_argument(index: int) -> bytes:
    # The lower half, which is all that the kernel looks at for these: a number of 32 bits.
    return _instruction(_LOAD, _ARGUMENTS + 8 * index)


def _one_of(
    values: Iterable[int], argument: int, listed: bytes, others: bytes, mask: int = 0xFFFFFFFF
) -> bytes:
    """`listed` for a call whose argument, as far as `mask` goes, is one of `values`, else `others`: an
    instruction each."""
    ordered = sorted(values)
    tests = [_instruction(_EQUAL, value, len(ordered) - place) for place, value in enumerate(ordered)]
    return b"".join((_load_argument(argument), _instruction(_AND, mask), *tests, others, listed))


def _choose(bodies: list[tuple[int, bytes]]) -> bytes:
    """The last of these, which are sorted by number, whose number is not above the call's.

    Halved again and again, not compared one by one: to install a filter, the kernel goes through it once for
    every call that there is.
    """
    if len(bodies) == 1:
        return bodies[0][1]
    middle = len(bodies) // 2
    below, above = _choose(bodies[:middle]), _choose(bodies[middle:])
    distance = len(below) // 8
    if distance < 256:
        return _instruction(_AT_LEAST, bodies[middle][0], distance) + below + above
    far = _instruction(_AT_LEAST, bodies[middle][0], 0, 1) + _instruction(_JUMP, distance)
    return far + below + above


def _pairs(domains: frozenset[int]) -> bytes:
    kinds = _PASS
    if socket.AF_UNIX not in domains:
        kinds = _one_of(_CONNECTED, 1, _PASS, _fail(errno.ESOCKTNOSUPPORT), _KIND)
    return _one_of((socket.AF_UNIX,), 0, kinds, _fail(errno.EAFNOSUPPORT))


def _for_architecture(
    column: int, domains: frozenset[int], *, containers: bool, owners: bool, limits: bool, truncation: bool
) -> bytes:
    refused = _NEVER | ({} if containers else _OF_CONTAINERS) | ({} if owners else _OF_OWNERS)
    refused |= {} if truncation else _OF_TRUNCATION
    numbered = ((numbers[column], _fail(error)) for error, *numbers in refused.values())
    bodies = {number: body for number, body in numbered if number is not None}
    bodies[_SOCKET[column]] = _one_of(domains, 0, _PASS, _fail(errno.EAFNOSUPPORT))
    bodies[_SOCKETPAIR[column]] = _pairs(domains)
    ioctls = _IOCTLS if owners else (*_IOCTLS, *_IOCTLS_OF_OWNERS)
    bodies[_IOCTL[column]] = _one_of(ioctls, 1, _fail(errno.EPERM), _PASS)
    bodies |= dict.fromkeys(_FCNTL[column], _one_of(_LEASES, 1, _fail(errno.EPERM), _PASS))
    bodies[_PERSONALITY[column]] = _one_of(_PERSONALITIES, 0, _PASS, _fail(errno.EPERM))
    if not containers:
        any_new = _instruction(_ANY_BIT, _CLONE_NEW, 0, 1)
        bodies[_CLONE[column]] = _load_argument(0) + any_new + _fail(errno.EPERM) + _PASS
    if not limits:
        # Limits of any process of the same user, which it would end by; those of a process itself go by 0.
        bodies[_PRLIMIT[column]] = _one_of((0,), 0, _PASS, _fail(errno.EPERM))
    if not truncation:
        for numbers, flags in ((_OPEN, 1), (_OPENAT, 2)):
            number = numbers[column]
            if number is not None:
                bodies[number] = _one_of(_NOT_TO_WRITE, flags, _fail(errno.EACCES), _PASS, _TRUNCATING)
    cases = {0: _PASS} | {number + 1: _PASS for number in bodies} | bodies
    if column == _X86_64:
        cases[_X32] = _fail(errno.ENOSYS)  # and so all of that table
    ordered = sorted(cases.items())
    changes = [
        (number, body)
        for (number, body), (_, before) in zip(ordered, [(0, b""), *ordered], strict=False)
        if body != before
    ]
    return _instruction(_LOAD, _NUMBER) + _choose(changes)


def supports(machine: str) -> bool:
    """`machine` as `os.uname` says it."""
    return machine in _ARCHITECTURES


def make_filter(
    machine: str,
    domains: Iterable[int],
    *,
    containers: bool = False,
    owners: bool = False,
    limits: bool = False,
    truncation: bool = True,
) -> bytes:
    """A program for this machine. Raises `KeyError` for one that it does not support.

    `domains`: those of the sockets that may be made; connected pairs of sockets always may. `containers`:
    namespaces and mounts may be made. `owners`: owners, attributes and flags of files may be changed, and
    `limits`: limits of other processes: something else says of which. `truncation`: something else says
    which files may be truncated.
    """
    parts = [_instruction(_LOAD, _ARCHITECTURE)]
    for name, column in _ARCHITECTURES[machine]:
        body = _for_architecture(
            column,
            frozenset(domains),
            containers=containers,
            owners=owners,
            limits=limits,
            truncation=truncation,
        )
        # The body is too long for a comparison to jump over.
        parts.append(_instruction(_EQUAL, name, 1, 0) + _instruction(_JUMP, len(body) // 8) + body)
    parts.append(_instruction(_RETURN, _KILL))
    return b"".join(parts)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


_syscall = ctypes.PyDLL(None, use_errno=True).syscall


class Filter:
    """A program that is ready to be installed in any child of this process."""

    def __init__(self, machine: str, program: bytes) -> None:
        self._instructions = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // 8, ctypes.addressof(self._instructions))
        self._arguments = (
            ctypes.c_long(_SECCOMP[machine]),
            ctypes.c_ulong(_SET_MODE_FILTER),
            # Older kernels slow down whoever has a filter, against attacks that read along: jobs compute.
            ctypes.c_ulong(_SPEC_ALLOW),
            ctypes.byref(self._program),
        )

    def install(self) -> None:
        """For this process and all that come of it, for good. It needs no new privileges, or root's. Raises
        `OSError`."""
        if _syscall(*self._arguments) < 0:
            raise OSError(ctypes.get_errno(), "seccomp")
