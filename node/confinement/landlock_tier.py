"""The tier `landlock`: how the child of a shepherd that becomes a script puts itself behind it.

Imported by the shepherd: standard library only. What is the same for every script is made once, before the
children are forked. The rules are made while a child is still the node's user, who gets at every path of
theirs, and hold from when it is the script's.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from node.confinement.landlock import DEVICE, READ, WRITE, Ruleset
from node.confinement.seccomp import ON_THE_NETWORK, Filter, make_filter, supports


class LandlockTier:
    """What is the same for every script of a node.

    `read`: what all of them see (`visible.View.read`, `visible.OF_THE_KERNEL`). `own_uid`: scripts run as a
    uid that owns nothing outside. `shared`: directories that all of them write, as `/dev/shm`.
    """

    def __init__(
        self,
        machine: str,
        abi: int,
        *,
        own_uid: bool,
        read: Iterable[bytes],
        devices: Iterable[bytes],
        shared: Iterable[bytes],
    ) -> None:
        self._abi = abi
        self._common = [
            *((path, READ) for path in read),
            *((path, DEVICE) for path in devices),
            *((path, WRITE) for path in shared),
        ]
        self._filters: dict[tuple[bool, bool], Filter] = {}
        for network in (False, True) if supports(machine) else ():
            for sockets in (False, True):
                domains = {*(ON_THE_NETWORK if network else ()), *((socket.AF_UNIX,) if sockets else ())}
                program = make_filter(machine, domains, owners=own_uid, limits=own_uid, truncation=abi >= 3)
                self._filters[network, sockets] = Filter(machine, program)

    def prepare(
        self,
        *,
        write: Iterable[bytes],
        read: Iterable[bytes],
        devices: Iterable[bytes] = (),
        network: bool,
    ) -> Ruleset:
        """The rules of one script, with what it is given besides; what is not there is left out. Raises
        `OSError`, with the path of what cannot be reached."""
        rules = Ruleset(self._abi, network=network)
        given = [
            *self._common,
            *((path, READ) for path in read),
            *((path, DEVICE) for path in devices),
            *((path, WRITE) for path in write),
        ]
        for path, rights in given:
            with contextlib.suppress(FileNotFoundError):
                rules.allow(path, rights)
        return rules

    def enforce(self, rules: Ruleset, *, network: bool, sockets: bool) -> None:
        """For this process and all that come of it, for good: the last thing before the script. `sockets`:
        those by which programs of one machine speak to each other (`AF_UNIX`) may be made. Raises `OSError`.
        """
        rules.enforce()
        chosen = self._filters.get((network, sockets))
        if chosen is not None:
            chosen.install()
