"""What a script reads in `/etc/passwd` and `/etc/group`: the accounts of the system, and itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

NAME: Final = "job"
"""The name of a uid that the machine has none for."""
_OF_PEOPLE: Final = 1000
"""The first uid and gid that is given to people, by default of all distributions."""
_NOBODY: Final = 65534


@dataclass(frozen=True, slots=True)
class Accounts:
    """`name`: of who runs the script, also for `USER` and `LOGNAME`. The others: what the files contain."""

    name: str
    passwd: str
    group: str


def make_accounts(
    uid: int, gid: int, home: str, *, passwd: str, group: str, extra: Mapping[str, int]
) -> Accounts:
    """What a payload with these ids reads, where the machine has the contents `passwd` and `group`.

    People's accounts are left out, with their names and homes. `extra`: groups that it is given, by name.
    """
    accounts, known = _accounts(passwd), _groups(group)
    name = accounts.names.get(uid) or _free(NAME, uid, accounts.taken)
    own = known.names.get(gid) or _free(name, gid, known.taken | extra.keys())
    if ":" in home or "\n" in home:
        home = "/"  # There is no way to write it; `HOME` says where it is.
    people = accounts.of_system(frozenset({uid} & accounts.names.keys()))
    groups = known.of_system(frozenset({gid, *extra.values()} & known.names.keys()))
    given = [[each, "x", str(number), name] for each, number in extra.items() if number != gid]
    return Accounts(
        name,
        people + _text([[name, "x", str(uid), str(gid), "", home, "/bin/bash"]]),
        groups + _text([[own, "x", str(gid), ""], *given]),
    )


class _Entries:
    """What a file of the machine says, which each job asks anew: so what is made of it is kept."""

    def __init__(self, text: str, width: int) -> None:
        """Of the lines that are entries; not those of NIS, nor what nobody can read."""
        lines = (line.split(":") for line in text.splitlines())
        self._entries = [
            fields
            for fields in lines
            if len(fields) == width and fields[0] and fields[2].isascii() and fields[2].isdigit()
        ]
        self.names: Final = {int(fields[2]): fields[0] for fields in reversed(self._entries)}
        """The first of each number."""
        self.taken: Final = frozenset(fields[0] for fields in self._entries)
        self.of_system: Final = lru_cache(maxsize=8)(self._of_system)
        """Those that are no people's, without these numbers, as text."""

    def _of_system(self, without: frozenset[int]) -> str:
        numbered = [(int(fields[2]), fields) for fields in self._entries]
        return _text(
            fields
            for number, fields in numbered
            if number not in without and (number < _OF_PEOPLE or number == _NOBODY)
        )


_accounts: Final = lru_cache(maxsize=8)(partial(_Entries, width=7))


@lru_cache(maxsize=8)
def _groups(text: str) -> _Entries:
    """Without who is in them."""
    return _Entries("".join(f"{line.rpartition(':')[0]}:\n" for line in text.splitlines()), 4)


def _free(name: str, number: int, taken: Collection[str]) -> str:
    return f"{name}{number}" if name in taken else name


def _text(entries: Iterable[list[str]]) -> str:
    return "".join(f"{':'.join(fields)}\n" for fields in entries)
