"""What a script reads in `/etc/passwd` and `/etc/group`: the accounts of the system, and itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
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
    accounts = _entries(passwd, 7)
    taken = {fields[0] for fields in accounts if int(fields[2]) != uid}
    name = next((fields[0] for fields in accounts if int(fields[2]) == uid), _free(NAME, uid, taken))
    if ":" in home or "\n" in home:
        home = "/"  # There is no way to write it; `HOME` says where it is.
    people = [fields for fields in accounts if _is_of_system(int(fields[2])) and int(fields[2]) != uid]
    people.append([name, "x", str(uid), str(gid), "", home, "/bin/bash"])

    known = _entries(group, 4)
    taken = {fields[0] for fields in known if int(fields[2]) != gid} | extra.keys()
    own = next((fields[0] for fields in known if int(fields[2]) == gid), _free(name, gid, taken))
    given = {*extra.values(), gid}
    groups = [
        [*fields[:3], ""] for fields in known if _is_of_system(int(fields[2])) and int(fields[2]) not in given
    ]
    groups.append([own, "x", str(gid), ""])
    groups += [[each, "x", str(number), name] for each, number in extra.items() if number != gid]
    return Accounts(name, _text(people), _text(groups))


@lru_cache(maxsize=8)
def _entries(text: str, width: int) -> tuple[list[str], ...]:
    """The lines that are entries; not those of NIS, nor what nobody can read. Kept: each job asks anew."""
    found = (line.split(":") for line in text.splitlines())
    return tuple(
        fields
        for fields in found
        if len(fields) == width and fields[0] and fields[2].isascii() and fields[2].isdigit()
    )


def _is_of_system(number: int) -> bool:
    return number < _OF_PEOPLE or number == _NOBODY


def _free(name: str, number: int, taken: Iterable[str]) -> str:
    return f"{name}{number}" if name in taken else name


def _text(entries: Iterable[list[str]]) -> str:
    return "".join(f"{':'.join(fields)}\n" for fields in entries)
