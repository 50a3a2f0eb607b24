"""Tokens: secrets that say who asks. The server keeps their hashes alone.

A token is made of 240 random bits, so that a plain hash of it tells nothing. It begins with `jobo_`, and ends
in a checksum, by which a scanner of published code can tell one from what only looks so.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from orchestrator.access.roles import Principal, Role

if TYPE_CHECKING:  # Every command would import it for longer than all the rest of this.
    from actors.domain.scaling import MachineRecord

PREFIX: Final = "jobo_"
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH: Final = 40
_CHECKSUM: Final = 6
_FORM: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_LENGTH + _CHECKSUM}}}")

CLAIMED_FOR: Final = 600.0
"""Seconds for which the node that has joined by a one-time token may try again."""
USED_EVERY: Final = 60.0
"""Seconds for which a token's last use may be noted late."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is kept of a token. Times are wall-clock; `expires_at` None: never. `id` names it to people, and
    is no secret.

    Of tokens of nodes: `once` is for one node alone, which is then in `claimed_by` and may try again for
    `CLAIMED_FOR`; `max_slots` and `sources` (networks) bound what may join by it."""

    id: str
    hash: str
    role: Role
    name: str
    created_at: float
    services: tuple[str, ...] = ()
    user: int | None = None
    expires_at: float | None = None
    used_at: float | None = None
    once: bool = False
    max_slots: int | None = None
    sources: tuple[str, ...] = ()
    claimed_by: str | None = None
    claimed_at: float | None = None

    @property
    def principal(self) -> Principal:
        return Principal(self.role, self.name or self.id, frozenset(self.services), self.user, self.id)


MACHINE: Final = "machine"
"""What the ids of tokens begin with that nobody has made: by them machines of scaling join."""


def machine_token(machine: MachineRecord) -> TokenRecord:
    """What the node of a machine joins by, once, unless it has one of its own."""
    return TokenRecord(
        f"{MACHINE} {machine.token[:8]}",
        hash_of(machine.token),
        Role.NODE,
        f"{MACHINE} {machine.token[:8]}",
        machine.requested_at,
        (machine.service,),
        once=True,
    )


def make_secret() -> str:
    """A new token."""
    body = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return f"{PREFIX}{body}{_checksum(body)}"


def token_of_machines(secret: str, now: float) -> TokenRecord:
    """By which nodes join that scaling makes on this machine; it is kept nowhere."""
    return TokenRecord("machines", hash_of(secret), Role.NODE, "machines of this server", now)


def is_token(text: str) -> bool:
    """Whether it has the form of one, with its checksum."""
    if not _FORM.fullmatch(text):
        return False
    body = text.removeprefix(PREFIX)
    return _checksum(body[:_LENGTH]) == body[_LENGTH:]


def hash_of(secret: str) -> str:
    """64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode()), []
    for _ in range(_CHECKSUM):
        number, place = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[place])
    return "".join(letters)


class Tokens:
    """All that there are, in memory. `now` is the wall clock."""

    def __init__(self, records: Iterable[TokenRecord], now: Callable[[], float]) -> None:
        self._now = now
        self._records = {record.hash: record for record in records}
        self._hashes = {record.id: record.hash for record in self._records.values()}
        self._used: dict[str, float] = {}
        self.on_add: list[Callable[[TokenRecord], None]] = []
        """Are called with each token that is made."""

    def __iter__(self) -> Iterator[TokenRecord]:
        return iter(sorted(self._records.values(), key=lambda record: record.created_at))

    def find(self, secret: str) -> TokenRecord | None:
        """The token, if it is there and has not expired. Its use is noted."""
        digest = hash_of(secret)
        record = self.of_hash(digest)
        if record is None or not hmac.compare_digest(record.hash, digest):
            return None
        self.note_use(record)
        return record

    def of_hash(self, digest: str) -> TokenRecord | None:
        """The same, for who has shown the secret before. No use is noted."""
        record = self._records.get(digest)
        if record is None or (record.expires_at is not None and record.expires_at <= self._now()):
            return None
        return record

    def holds(self, record: TokenRecord) -> bool:
        """Whether it would be found still."""
        return self.of_hash(record.hash) is not None

    def note_use(self, record: TokenRecord) -> None:
        """It is used now."""
        now = self._now()
        if record.used_at is None or record.used_at + USED_EVERY <= now:
            self._records[record.hash] = replace(record, used_at=now)
            self._used[record.id] = now

    def get(self, token_id: str) -> TokenRecord | None:
        return self._records.get(self._hashes.get(token_id, ""))

    def claim(self, token_id: str, node_id: str) -> TokenRecord | None:
        """A token as this node's, which joins by it; None if it is used up: by another node, or too long ago.
        A claim is to be kept."""
        record = self.get(token_id)
        if record is None or not record.once:
            return record
        now = self._now()
        if record.claimed_at is None:
            record = replace(record, claimed_by=node_id, claimed_at=now)
            self._records[record.hash] = record
        elif record.claimed_by != node_id or record.claimed_at + CLAIMED_FOR < now:
            return None
        return record

    def take_used(self) -> Mapping[str, float]:
        """When tokens were used, by id, since this was asked last."""
        used, self._used = self._used, {}
        return used

    def add(self, record: TokenRecord) -> None:
        self._records[record.hash] = record
        self._hashes[record.id] = record.hash
        for tell in self.on_add:
            tell(record)

    def remove(self, token_id: str) -> bool:
        """False if there is none."""
        return self._records.pop(self._hashes.pop(token_id, ""), None) is not None
