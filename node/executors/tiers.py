"""The tiers of this machine: how much a script is kept from, and what a spawner is told of it.

`bubblewrap` shows a script what it may see, and nothing else is there; `landlock` refuses the rest; `bash`
keeps nothing from it. Which of them works is found by trying.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.confinement import bubblewrap, landlock
from node.confinement.tier_facts import BASH, BUBBLEWRAP, LANDLOCK, TierFacts
from node.confinement.tier_settings import TierName, UidRange
from node.confinement.visible import (
    DEVICES,
    OF_THE_KERNEL,
    PRIVATE,
    RESOLVER,
    SHARED_MEMORY,
    TERMINALS,
    Account,
    MachineFiles,
    View,
    find_private,
    find_visible,
)
from node.executors import namespaces

TRIAL: Final = r"""
fail() { printf '%s\n' "$1"; exit 1; }
if [[ $CONFINED ]]; then
    { read -r _ < /etc/shadow; } 2> /dev/null && fail 'a script reads /etc/shadow'
    { read -r _ < "$SECRET"; } 2> /dev/null && fail "a script reads the node's files"
    { : > "$SECRET.by"; } 2> /dev/null
fi
[[ $PWD == "$WORK" ]] || fail "a script is in $PWD"
{ : > "$WORK/made" && : > "$HOME/made"; } || fail 'a script cannot write into its own directory'
umask 777
: > "$WORK/closed"
printf 'fine\n'
"""
"""What a payload that is not a job does to find out. It runs nothing but bash."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier as it may be: with uids for the payloads, or all of them as the node's user."""

    name: TierName
    uids: UidRange | None

    @property
    def isolations(self) -> tuple[str, ...]:
        """In which a shepherd can start scripts in it, the best first. A user namespace has one user only,
        and bubblewrap shows the processes of the shepherd's namespace."""
        usable: tuple[str, ...] = (namespaces.PIDNS, namespaces.USERNS, namespaces.SUBREAPER)
        if self.uids is not None:
            usable = (namespaces.PIDNS, namespaces.SUBREAPER)
        return tuple(each for each in usable if self.name != BUBBLEWRAP or each != namespaces.SUBREAPER)

    def __str__(self) -> str:
        return self.name if self.uids is None else f"{self.name} with uids of their own"


class Machine:
    """What the tiers need to know of this machine. Its methods block."""

    def __init__(self, private: Iterable[Path]) -> None:
        self._given = [str(path) for path in private]
        self._files = MachineFiles()
        self._seen: dict[bool, View] = {}
        self.passwd, self.group = (_read(path) for path in ("/etc/passwd", "/etc/group"))

    def describe(self, tier: Tier) -> TierFacts | str:
        """What its spawner is told; else why it cannot work here."""
        own_uid = tier.uids is not None
        if tier.name == BASH:
            return TierFacts(BASH, own_uid=own_uid, lists={})
        if tier.name == LANDLOCK:
            if not (abi := landlock.find_abi()):
                return "this kernel has no Landlock, or it is switched off"
            lists: dict[str, Iterable[str]] = {
                "abi": (str(abi),),
                "read": (
                    *self.view(own_uid=own_uid).read,
                    *OF_THE_KERNEL,
                    self._files.resolve(RESOLVER),
                ),
                "devices": (*DEVICES, *(TERMINALS if own_uid else ())),
                "shared": (SHARED_MEMORY,),
            }
            return TierFacts(LANDLOCK, own_uid=own_uid, lists=lists)
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            return "there is no bwrap in PATH (install the package bubblewrap)"
        view = self.view(own_uid=own_uid)
        covered = [path for path in view.covered if os.fsencode(path) not in bubblewrap.TEMPORARY]
        directories = [path for path in covered if os.path.isdir(path)]
        files = [path for path in covered if path not in directories]
        resolver = self._files.resolve(RESOLVER)
        lists = {
            "begin": bubblewrap.begin(os.path.abspath(bwrap), own_uid=own_uid, root=os.geteuid() == 0),
            "binds": view.binds,
            "links": [
                word
                for link in view.links
                if os.path.dirname(link[0]) == "/" and link[0] not in PRIVATE
                for word in link
            ],
            "kernel": [path for path in OF_THE_KERNEL if path.startswith("/sys/")],
            "empty": directories,
            "closed": files,
            "resolver": [] if view.shows(resolver) else [resolver],
        }
        return TierFacts(BUBBLEWRAP, own_uid=own_uid, lists=lists)

    def view(self, *, own_uid: bool) -> View:
        """What scripts see in the tiers but `bash`."""
        if own_uid not in self._seen:
            home = os.environ.get("HOME", "")
            private = find_private(self._files, self.passwd, filter(None, [home]), self._given)
            account = None
            if not own_uid:
                account = Account(os.geteuid(), frozenset((os.getegid(), *os.getgroups())))
            self._seen[own_uid] = find_visible(self._files, private, account)
        return self._seen[own_uid]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
