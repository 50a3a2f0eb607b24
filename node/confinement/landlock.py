"""Landlock: a process says for good which files it and its children may use, and needs no rights for that.

It can add but not subtract: what is not allowed is refused, and what is below something allowed is allowed.
Older kernels know less of it; `ABIS` says what each version has brought.

Imported by the shepherd: standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# The numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = (ctypes.c_long(number) for number in (444, 445, 446))
_VERSION = 1
_PATH_BENEATH = ctypes.c_int(1)
_PR_SET_NO_NEW_PRIVS = 38
_OF_ITSELF = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPABILITIES = bytes(24)
_RULE = struct.Struct("=Qi")
_AS_PLACE = os.O_PATH | os.O_CLOEXEC

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE

READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY
"""To read and to run."""
DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIRECTORY | _TRUNCATE | _IOCTL_DEVICE
WRITE = ((1 << 15) - 1) & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE)
"""To read, run, write, make, rename and remove; not to make devices, nor to command those that are there."""

NEWEST = 7
"""The latest version whose rights are known here."""
ABIS = {
    1: "files are read, written, run, made and removed only where that is allowed, and never moved or linked"
    " from one directory to another",
    2: "files can be moved and linked between directories that may be written",
    3: "files that may not be written cannot be truncated either",
    4: "no TCP",
    5: "devices are not commanded",
    6: "no signals to processes outside, nor connections to their abstract sockets",
    7: "refusals can be audited",
}


def _known_rights(abi: int) -> tuple[int, int, int]:
    """What a version refuses when it is asked to: of files, of TCP, and of what is reached outside."""
    files = (1 << 13) - 1
    files |= 1 << 13 if abi >= 2 else 0
    files |= _TRUNCATE if abi >= 3 else 0
    files |= _IOCTL_DEVICE if abi >= 5 else 0
    return files, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0


# PyDLL keeps the interpreter's lock: nothing has to be taken back in a forked child.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall, _prctl, _capset = _libc.syscall, _libc.prctl, _libc.capset
_NULL, _NO_FLAGS = ctypes.c_void_p(None), ctypes.c_uint32(0)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def find_abi() -> int:
    """The version of this kernel, of which no more than `NEWEST` is used; 0 where there is none."""
    answer = int(_syscall(_CREATE_RULESET, _NULL, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))
    return max(0, min(answer, NEWEST))


def open_place(path: bytes | str) -> int:
    """A descriptor of a file that only says which one it is. Raises `OSError`."""
    return os.open(path, _AS_PLACE)


class Ruleset:
    """What is allowed. To be closed, also by the end of the process."""

    def __init__(self, abi: int, *, network: bool) -> None:
        """`abi`: no more than this kernel's. `network`: TCP is not looked at. Raises `OSError`."""
        files, tcp, outside = _known_rights(abi)
        self._files = files
        self._rule = ctypes.create_string_buffer(_RULE.size)
        # An older kernel takes what it does not know as long as nothing is in it.
        attributes = struct.pack("=QQQ", files, 0 if network else tcp, outside)
        size = ctypes.c_size_t(len(attributes))
        created = _syscall(_CREATE_RULESET, attributes, size, _NO_FLAGS)
        self._descriptor = ctypes.c_int(_check(created, "landlock_create_ruleset"))

    def allow(self, path: bytes | str, rights: int) -> None:
        """`READ`, `WRITE` or `DEVICE` for a file, or for a directory and all that is below it. Raises
        `OSError`."""
        place = open_place(path)
        try:
            self.allow_place(place, rights)
        finally:
            os.close(place)

    def allow_place(self, place: int, rights: int) -> None:
        """The same for what is open there. Raises `OSError`."""
        if self._add(place, rights & self._files) == errno.EINVAL:  # No directory: cheaper than to look.
            self._add(place, rights & self._files & _ON_FILES)

    def _add(self, place: int, rights: int) -> int:
        """0, or EINVAL for a file that is given what only a directory can have. Raises `OSError`."""
        _RULE.pack_into(self._rule, 0, rights, place)
        if _syscall(_ADD_RULE, self._descriptor, _PATH_BENEATH, self._rule, _NO_FLAGS) == 0:
            return 0
        if (number := ctypes.get_errno()) == errno.EINVAL and rights & ~_ON_FILES:
            return number
        raise OSError(number, f"landlock_add_rule: {os.strerror(number)}")

    def enforce(self) -> None:
        """For this process and all that come of it, for good. Raises `OSError`.

        They have no capabilities from here on, as root neither, and gain none by running programs: with those
        they could read what is closed by its mode, or the environment of any process.
        """
        _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        _check(_capset(_OF_ITSELF, _NO_CAPABILITIES), "capset")
        _check(_syscall(_RESTRICT_SELF, self._descriptor, _NO_FLAGS), "landlock_restrict_self")

    @property
    def descriptor(self) -> int:
        """Closed when a program is run."""
        return self._descriptor.value

    def close(self) -> None:
        os.close(self._descriptor.value)
