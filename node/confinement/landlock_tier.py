"""The tier `landlock`: how the child of a shepherd that becomes a script puts itself behind it.

Imported by the shepherd: standard library only. What is the same for every script is made once, before the
children are forked. The rules are made while a child is still the node's user, who gets at every path of
theirs, and hold from when it is the script's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Sequence

from node.confinement.common_rules import CommonRules
from node.confinement.landlock import DEVICE, READ, WRITE, Ruleset, open_place
from node.confinement.seccomp import ON_THE_NETWORK, Filter, make_filter, supports


class Given:
    """What one script may use besides what all of them see.

    `jobs`: the directory of the directories of all jobs; `own`: what it has to write in it. `read`,
    `devices`, `write`: what others may be given as well.
    """

    def __init__(
        self,
        *,
        jobs: bytes,
        own: Sequence[bytes],
        read: Sequence[bytes],
        devices: Sequence[bytes],
        write: Sequence[bytes],
    ) -> None:
        self.jobs, self.own = jobs, own
        self.shared = [
            *((path, READ) for path in read),
            *((path, DEVICE) for path in devices),
            *((path, WRITE) for path in write),
        ]


class Rules:
    """Of one script: `own`, and those that others have as well, if there are some."""

    def __init__(self, own: Ruleset, common: Ruleset | None) -> None:
        self._own, self._common = own, common

    def enforce(self) -> None:
        """See `Ruleset.enforce`."""
        # The kernel copies what is in force already: so the short one first.
        self._own.enforce()
        if self._common is not None:
            self._common.enforce()

    def close(self) -> None:
        self._own.close()


@contextlib.contextmanager
def _opened(given: Given) -> Iterator[list[tuple[int, int]]]:
    """Descriptors of what is there, with the rights to it."""
    places: list[tuple[int, int]] = []
    try:
        for path, rights in given.shared:
            with contextlib.suppress(FileNotFoundError):
                places.append((open_place(path), rights))
        yield places
    finally:
        for place, _ in places:
            os.close(place)


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
        self._read, shared = tuple(read), tuple(shared)
        self._own = [*((path, DEVICE) for path in devices), *((path, WRITE) for path in shared)]
        self.common = CommonRules(abi, self._read, (path for path, _ in self._own))
        self._filters: dict[tuple[bool, bool], Filter] = {}
        for network in (False, True) if supports(machine) else ():
            for sockets in (False, True):
                domains = {*(ON_THE_NETWORK if network else ()), *((socket.AF_UNIX,) if sockets else ())}
                program = make_filter(machine, domains, owners=own_uid, limits=own_uid, truncation=abi >= 3)
                self._filters[network, sockets] = Filter(machine, program)

    def keep(self, given: Given) -> None:
        """Have all that several scripts can share ready for this one. Raises `OSError`."""
        self.common.renew(given.jobs)
        with _opened(given) as places:
            self.common.find(given.jobs, places)

    def prepare(self, given: Given, *, network: bool) -> Rules:
        """The rules of one script; what is not there is left out. Raises `OSError`, with the path of what
        cannot be reached."""
        with _opened(given) as places:
            common = self.common.find(given.jobs, places)
            trees = self._read if common is None else self.common.trees or ()
            own = Ruleset(self._abi, network=network)
            try:
                for path, rights in (
                    *((path, READ) for path in trees),
                    *self._own,
                    *((path, WRITE) for path in given.own),
                ):
                    try:
                        own.allow(path, rights)
                    except FileNotFoundError:
                        continue
                for place, rights in places:
                    own.allow_place(place, rights)
            except BaseException:
                own.close()
                raise
        return Rules(own, common)

    def enforce(self, rules: Rules, *, network: bool, sockets: bool) -> None:
        """For this process and all that come of it, for good: the last thing before the script. `sockets`:
        those by which programs of one machine speak to each other (`AF_UNIX`) may be made. Raises `OSError`.
        """
        rules.enforce()
        chosen = self._filters.get((network, sockets))
        if chosen is not None:
            chosen.install()
