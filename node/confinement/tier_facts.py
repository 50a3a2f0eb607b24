"""What a spawner is told of its tier, once: `BASH`, `LANDLOCK` or `BUBBLEWRAP`, and lists by their names.

Imported by the shepherd: standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

BUBBLEWRAP = "bubblewrap"
LANDLOCK = "landlock"
BASH = "bash"


class TierFacts:
    """`own_uid`: scripts run as users that own nothing outside. `lists`: see `spawn_tiers`."""

    def __init__(self, tier: str, *, own_uid: bool, lists: Mapping[str, Iterable[str]]) -> None:
        self.tier = tier
        self.own_uid = own_uid
        self.lists = {name: [os.fsencode(each) for each in values] for name, values in lists.items()}

    def pack(self) -> bytes:
        fields = [self.tier.encode(), b"1" if self.own_uid else b"0"]
        for name, values in self.lists.items():
            fields += [name.encode(), b"%d" % len(values), *values]
        return b"".join(field + b"\0" for field in fields)

    @classmethod
    def unpack(cls, packed: bytes) -> TierFacts:
        tier, own_uid, *fields = packed.split(b"\0")[:-1]
        found = cls(tier.decode(), own_uid=own_uid == b"1", lists={})
        while fields:
            count = int(fields[1])
            found.lists[fields[0].decode()] = fields[2 : 2 + count]
            del fields[: 2 + count]
        return found
