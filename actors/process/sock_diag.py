"""Whose a socket of this machine is, as the kernel knows it (sock_diag(7))."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import Final

Address = tuple[str, int]

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI")
_IDENTITY: Final = struct.Struct("!HH16s16s")
_NO_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_UID: Final = _HEADER.size + 4 + 48 + 12
"""Where an answer has the owner, and the inode behind it: behind the message's head, the state, the socket's
identity, and what waits in it."""
_PATIENCE: Final = struct.pack("@ll", 0, 200_000)
"""As setsockopt(2) takes it: 0.2 s."""
_ANY_STATE: Final = 0xFFFFFFFF
_LISTEN: Final = 10


def find_uid(peer: Address, local: Address) -> int | None:
    """The uid of the process on this machine that has connected from `peer` to our `local`; None where the
    kernel knows of none. Does not block."""
    return _ask(peer, local, listens=False)


def find_listener_uid(address: Address) -> int | None:
    """The uid of the process that listens at an address of this machine; None where the kernel knows of none.
    Does not block."""
    return _ask(address, (address[0], 0), listens=True)


class _Kernel:
    """One socket for all questions: asking must not need a descriptor, of which there may be none."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._socket: socket.socket | None = None
        self._owner = 0
        self._asked = 0

    def open(self) -> None:
        """Raises OSError."""
        if self._socket is None or self._owner != os.getpid():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            # Not Python's timeout, for which it would ask before each call whether that can wait.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _PATIENCE)
            self._owner = os.getpid()

    def ask(self, body: bytes) -> bytes:
        """The answer, with its head. Raises OSError."""
        with self._turn:
            self.open()
            assert self._socket is not None
            self._asked = (self._asked + 1) & 0xFFFFFFFF
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, 1, self._asked, 0) + body)
            while True:
                answer = self._socket.recv(1 << 12)
                # One that came too late for the question before is read here.
                if _HEADER.unpack_from(answer)[3] == self._asked:
                    return answer


_KERNEL: Final = _Kernel()


def prepare() -> None:
    """Open what is asked by, so that no descriptor is needed later. Raises OSError."""
    _KERNEL.open()


def _ask(near: Address, far: Address, *, listens: bool) -> int | None:
    try:
        family, identity = _identity(near, far)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + identity + _NO_COOKIE
        answer = _KERNEL.ask(body)
    except (OSError, ValueError):
        return None
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _BY_FAMILY or len(answer) < _UID + 8:
        return None
    # The kernel answers with a socket that listens at that address where there is no other.
    found = answer[_HEADER.size + 4 : _HEADER.size + 4 + _IDENTITY.size]
    if (answer[_HEADER.size + 1] == _LISTEN) is not listens or (not listens and found != identity):
        return None
    uid, inode = struct.unpack_from("=II", answer, _UID)
    # Of a socket that its process has closed the kernel knows no owner any more, and says root.
    return int(uid) if inode else None


def _identity(near: Address, far: Address) -> tuple[int, bytes]:
    """The family, and from where to where a socket goes. Raises OSError for no address."""
    families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host, _ in (near, far)]
    packed = [
        socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")
        for family, (host, _) in zip(families, (near, far), strict=True)
    ]
    return families[0], _IDENTITY.pack(near[1], far[1], *packed)
