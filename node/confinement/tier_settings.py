"""What can be said of how scripts run: a tier, and users that are nobody else, of which each gets one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

TierName = Literal["auto", "bubblewrap", "landlock", "bash"]
TIERS: Final[tuple[TierName, ...]] = ("bubblewrap", "landlock", "bash")
"""The best first."""
_LAST: Final = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class UidRange:
    """From `first` to `last`: as uids and as gids."""

    first: int
    last: int

    def __contains__(self, uid: int) -> bool:
        return self.first <= uid <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


RANGES: Final = (UidRange(2_000_000_000, 2_000_065_535), UidRange(60_706, 61_183))
"""What nobody has by any convention of distributions; the second where a container has few ids."""
NO_UIDS: Final = UidRange(0, 0)
"""Payloads run as the node's user."""


def read_range(value: object) -> UidRange:
    """`FIRST-LAST`, or `0` for none. Raises ValueError; also where root, or uids of the system, are in it."""
    if value in ("0", 0) and value is not False:
        return NO_UIDS
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", value, re.ASCII) if isinstance(value, str) else None
    if match is None or not 1000 <= int(match[1]) <= int(match[2]) <= _LAST:
        raise ValueError(value)
    return UidRange(int(match[1]), int(match[2]))
