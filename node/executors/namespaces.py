"""What the kernel has for a shepherd, and Python 3.11 no functions for: namespaces, and signals to poll for.

Imported by the shepherd only: stdlib only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterable, Sequence

PIDNS = "pidns"
USERNS = "userns"
SUBREAPER = "subreaper"

_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_FLAGS = {
    PIDNS: _CLONE_NEWPID | _CLONE_NEWNS,
    USERNS: _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS,
}
_SYS_CLONE3 = 435  # the same number on every architecture
_SET_IDS = {
    # machine: setgroups, setresuid, setresgid
    "x86_64": tuple(map(ctypes.c_long, (116, 117, 119))),
    "aarch64": tuple(map(ctypes.c_long, (159, 147, 149))),
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_NOATIME, _MS_NODIRATIME, _MS_RELATIME = 32, 1024, 2048, 1 << 21
_MS_BIND, _MS_MOVE, _MS_REC, _MS_SLAVE = 0x1000, 0x2000, 0x4000, 0x80000
_MS_UNBINDABLE, _MS_PRIVATE = 0x20000, 0x40000
_MOUNT_SETATTR, _HERE, _RECURSIVE = ctypes.c_long(442), ctypes.c_long(-100), ctypes.c_long(0x8000)
_OPTIONS = {
    b"ro": _MS_RDONLY,
    b"nosuid": _MS_NOSUID,
    b"nodev": _MS_NODEV,
    b"noexec": _MS_NOEXEC,
    b"noatime": _MS_NOATIME,
    b"nodiratime": _MS_NODIRATIME,
    b"relatime": _MS_RELATIME,
}
"""What stands in `mountinfo`, and its flags."""
_SI_USER = 0
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_OF_ITSELF = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPABILITIES = bytes(24)

# PyDLL keeps the interpreter's lock: after clone3 there must be nothing to take back. Each function is looked
# up here, once, and not in each shepherd.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall, _mount_call, _prctl, _signalfd = _libc.syscall, _libc.mount, _libc.prctl, _libc.signalfd
_signal, _capset, _unshare, _setns = _libc.signal, _libc.capset, _libc.unshare, _libc.setns


def _check(result: int, what: str) -> int:
    if result < 0:
        raise _error(what)
    return result


def _error(what: str) -> OSError:
    """Of the call that has just failed."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def fork(isolation: str) -> int:
    """Fork as `os.fork` does; the child is PID 1 of a namespace of its own where `isolation` has one.

    Cloning, instead of unsharing and forking once more, leaves the child a child of the caller and tells its
    pid at once.
    """
    if isolation == SUBREAPER:
        return os.fork()
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    arguments = (ctypes.c_uint64 * 8)(_FLAGS[isolation], 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    return _check(_syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), size), "clone3")


def map_own_ids(uid: int, gid: int) -> None:
    """In a new user namespace: be the same user as outside. /proc must still be the outer one."""
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, how: bytes | None = None) -> None:
    if _mount_call(source, target, kind, ctypes.c_ulong(flags), how) < 0:
        raise _error(f"mount {target.decode(errors='replace')}")


def mount_own_proc() -> None:
    """Give a new PID namespace its own /proc; mounts of the machine still arrive here, ours stay here."""
    _mount(b"none", b"/", None, _MS_REC | _MS_SLAVE)
    _mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


class Mounts:
    """Those that this process has now, of which each payload gets a copy: none finds what another mounted."""

    def __init__(self) -> None:
        self.descriptor = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def copy(self) -> None:
        if _unshare(_CLONE_NEWNS) < 0:
            raise _error("unshare")

    def leave_copy(self) -> None:
        """It is gone with this if nobody else is in it. The kernel takes its time for that."""
        if _setns(self.descriptor, _CLONE_NEWNS) < 0:
            raise _error("setns")


def have_own_shared_memory(size: int) -> None:
    """Be alone in /dev/shm, which takes `size` bytes, and with what System V shares; where there is one."""
    _check(_unshare(_CLONE_NEWIPC), "unshare")
    with contextlib.suppress(FileNotFoundError):
        mount_tmpfs(b"/dev/shm", b"mode=1777,size=%d" % size)


def hide(file: bytes) -> None:
    """Cover a file for all of this mount namespace, where it can neither be removed nor renamed then."""
    # Else the modes of the machine's own could be changed through it.
    _mount_to_read(b"/dev/null", file)


def _mount_to_read(source: bytes, file: bytes) -> None:
    _mount(source, file, None, _MS_BIND)
    _mount(b"none", file, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NOEXEC)


def keep_modes(devices: Iterable[bytes]) -> None:
    """Nobody in this mount namespace changes modes or times of these devices, as far as they are there; they
    are read and written as ever. Nor through standard input, which is `/dev/null` from here on."""
    for device in devices:
        with contextlib.suppress(FileNotFoundError):
            _mount_to_read(device, device)
    descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(descriptor, 0)
    os.close(descriptor)


def mount_tmpfs(target: bytes, how: bytes) -> None:
    _mount(b"tmpfs", target, b"tmpfs", _MS_NOSUID | _MS_NODEV, how)


def mount_own_terminals(target: bytes) -> None:
    """Which nobody else has, and everybody who gets there may make."""
    how = b"newinstance,ptmxmode=0666,mode=0620"
    _mount(b"devpts", target, b"devpts", _MS_NOSUID | _MS_NOEXEC, how)


def bind(descriptor: int, target: bytes) -> None:
    """Show what is open there, with all the mounts below it."""
    _mount(b"/proc/self/fd/%d" % descriptor, target, None, _MS_BIND | _MS_REC)


def move(descriptor: int, target: bytes) -> None:
    """A mount, of which this is the root, and those below it."""
    _mount(b"/proc/self/fd/%d" % descriptor, target, None, _MS_MOVE)


def restrict(mount: bytes, *, read_only: bool) -> None:
    """Neither devices nor programs that give rights count in it and in those below it; with `read_only`
    nothing is written there."""
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)  # These three are the same in both calls.
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    found = _syscall(_MOUNT_SETATTR, _HERE, mount, _RECURSIVE, ctypes.byref(attributes), size)
    if found < 0 and ctypes.get_errno() == errno.ENOSYS:  # Before Linux 5.12.
        restrict_each(mount, flags)
    else:
        _check(found, "mount_setattr")


def restrict_each(mount: bytes, flags: int) -> None:
    """The same, one after the other."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        found = [line.split(b" ")[4:6] for line in mounts]
    for path, options in found:
        # As octal numbers stand there spaces, ends of lines and backslashes.
        real = path.decode("unicode_escape").encode("latin-1")
        if real == mount or real.startswith(mount + b"/"):
            kept = sum(_OPTIONS.get(option, 0) for option in options.split(b","))
            _mount(b"none", real, None, _MS_BIND | _MS_REMOUNT | kept | flags)


def close(mount: bytes) -> None:
    """Nothing is made in it any more; those below it are as they are."""
    _mount(b"none", mount, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def keep_out_of_binds(mount: bytes) -> None:
    """Those that hold it show nothing of it from now on."""
    _mount(b"none", mount, None, _MS_UNBINDABLE)


def let_into_binds(mount: bytes) -> None:
    _mount(b"none", mount, None, _MS_PRIVATE)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def be_called(name: bytes) -> None:
    """What everybody may read of this process, by `procfs.name_of`: 15 bytes of it."""
    if _prctl(_PR_SET_NAME, name, 0, 0, 0) < 0:
        raise _error("prctl")


def close_to_others() -> None:
    """Nobody but root may look into this process or attach to it, not even the same user."""
    _check(_prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def can_become() -> bool:
    """Whether `become` works on this machine."""
    return os.uname().machine in _SET_IDS


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Be this user in this thread alone, which libc has no functions for.

    The saved uid stays what it was until a program is run. While it differs, who is this user can signal the
    thread, but not set the limits of its process.
    """
    set_groups, set_uids, set_gids = _SET_IDS[os.uname().machine]
    listed = (ctypes.c_uint32 * len(groups))(*groups)
    _check(_syscall(set_groups, ctypes.c_size_t(len(groups)), listed), "setgroups")
    _check(_syscall(set_gids, *[ctypes.c_uint32(gid)] * 3), "setresgid")
    uids = (ctypes.c_uint32(uid), ctypes.c_uint32(uid), ctypes.c_uint32(0xFFFFFFFF))
    _check(_syscall(set_uids, *uids), "setresuid")


def drop_privileges() -> None:
    """Have no capabilities, and gain none by running programs: root's go with its uid, those that another
    user was given do not."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_capset(_CAPABILITIES_OF_ITSELF, _NO_CAPABILITIES), "capset")


def heed_children() -> None:
    """SIGCHLD as it is by default, where it was ignored. Python's own way costs more than the fork."""
    _signal(int(signal.SIGCHLD), None)


class SignalSet:
    """Signals to be awaited, as the kernel wants them named."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._mask = (ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong)))()
        self._mask[0] = sum(1 << (number - 1) for number in numbers)

    def open(self) -> int:
        """A descriptor that is readable while one of these, which are blocked, is pending."""
        return _check(_signalfd(-1, self._mask, os.O_NONBLOCK | os.O_CLOEXEC), "signalfd")


def read_signal(descriptor: int) -> tuple[int, bool] | None:
    """The number of a pending signal, and whether somebody has sent it who is outside of this PID namespace;
    None if there is none."""
    try:
        info = os.read(descriptor, 128)
    except BlockingIOError:
        return None
    number, _, how, sender = struct.unpack_from("IiiI", info)
    # In a signal that is no plain one the sender is what who sends it says.
    return number, how == _SI_USER and sender == 0


def works(isolation: str) -> bool:
    """Try it: what /proc/sys says about it is not the whole truth."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        pid = fork(isolation)
    except OSError:
        return False
    if pid == 0:
        try:
            os._exit(_rehearse(isolation, uid, gid))
        finally:
            os._exit(errno.EIO)
    _, status = os.waitpid(pid, 0)
    return status == 0


def _rehearse(isolation: str, uid: int, gid: int) -> int:
    if isolation == SUBREAPER:
        adopt_orphans()
        return 0
    if isolation == USERNS:
        map_own_ids(uid, gid)
    mount_own_proc()
    child = os.fork()
    if child == 0:
        os._exit(7 if os.readlink("/proc/self") == str(os.getpid()) else 8)
    return 0 if os.waitpid(child, 0)[1] == 7 << 8 else errno.EIO
