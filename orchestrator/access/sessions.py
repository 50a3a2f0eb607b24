"""Sessions of the dashboard: a token that was shown once is remembered by a cookie.

The cookie holds a secret of its own, of which the server keeps the hash alone; it says who asks as long as
its token does. A browser sends it whatever page has the request made. So an order by cookie also has to show
a second secret, which pages of other sites cannot read: it is made of the first, and is kept nowhere.

Ports of a host share cookies, so the cookie's name says whose it is. Of several of that name the first that
holds counts.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from orchestrator.access.roles import Principal, Role
from orchestrator.access.tokens import TokenRecord, Tokens, hash_of

LIFE: Final = 12 * 3600.0
"""Seconds that a session lasts at most."""
MOST: Final = 32
"""Sessions of a token; the oldest goes for one more."""
HEADER: Final = "X-Session-Token"
"""Where an order by cookie shows the second secret."""
WATCHERS: Final = frozenset({Role.PORTAL, Role.USER, Role.OPERATOR, Role.READER})
"""Roles for which the dashboard has anything to show."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What is kept of a session. `token` is the hash of its token: another of the same id is another.
    `expires_at` is wall-clock."""

    hash: str
    token: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Session:
    """One that holds."""

    secret: str
    record: SessionRecord
    token: TokenRecord

    @property
    def principal(self) -> Principal:
        return self.token.principal

    @property
    def order_token(self) -> str:
        """What orders have to show."""
        return _order_token(self.secret)

    @property
    def expires_at(self) -> float:
        """When it ends: with its token at the latest."""
        return min(self.record.expires_at, self.token.expires_at or self.record.expires_at)

    def allows_order(self, shown: str | None) -> bool:
        """Whether the header of an order shows that a page of ours gives it."""
        return shown is not None and hmac.compare_digest(shown.encode(), self.order_token.encode())


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a browser sends a cookie: below a path, and `secure`: over TLS alone."""

    path: str = "/"
    secure: bool = False


class Sessions:
    """All that there are, in memory. `now` is the wall clock; `owner` the ledger's, by which the cookie is
    named; `public_urls` where people reach this server."""

    def __init__(
        self,
        records: Iterable[SessionRecord],
        tokens: Tokens,
        now: Callable[[], float],
        owner: str = "",
        public_urls: Sequence[str] = (),
    ) -> None:
        self._tokens = tokens
        self._now = now
        self._records = {record.hash: record for record in records}
        self._public = {
            _origin(url): Scope(_path(url), url.lower().startswith("https:")) for url in public_urls
        }
        self.cookie: Final = f"orchestrator_{owner[:8]}"

    def find(self, cookies: str | None) -> Session | None:
        """The session of a request with these cookies."""
        if cookies is None:
            return None
        for secret in _values(cookies, self.cookie):
            record = self._records.get(hash_of(secret))
            token = None if record is None else self._token_of(record)
            if record is not None and token is not None:
                self._tokens.note_use(token)
                return Session(secret, record, token)
        return None

    def holds(self, record: SessionRecord) -> bool:
        """Whether it would be found still."""
        return record.hash in self._records and self._token_of(record) is not None

    def make(self, token: TokenRecord) -> Session:
        """A new one, which does not hold before it is added."""
        secret = secrets.token_urlsafe(32)
        record = SessionRecord(hash_of(secret), token.hash, self._now() + LIFE)
        return Session(secret, record, token)

    def add(self, session: Session) -> None:
        self._records[session.record.hash] = session.record

    def remove(self, session: Session) -> None:
        self._records.pop(session.record.hash, None)

    def take_ended(self, token: TokenRecord | None = None) -> Sequence[str]:
        """Forget those that have ended, and of a token so many that there is room for one more: their
        hashes."""
        ended = [one.hash for one in self._records.values() if self._token_of(one) is None]
        if token is not None:
            its = [one for one in self._records.values() if one.token == token.hash]
            its.sort(key=lambda one: one.expires_at)
            ended += [one.hash for one in its[: max(0, len(its) - MOST + 1)]]
        for digest in ended:
            self._records.pop(digest, None)
        return ended

    def scope(self, origin: str | None, scheme: str) -> Scope:
        """Of the cookie for a page of this origin: of the address that people know where it is one of those,
        or where none is told; else of the whole host."""
        if origin is not None:
            origin = origin.lower()
            return self._public.get(origin, Scope(secure=origin.startswith("https:")))
        return next(iter(self._public.values()), Scope(secure=scheme == "https"))

    def _token_of(self, record: SessionRecord) -> TokenRecord | None:
        return self._tokens.of_hash(record.token) if self._now() < record.expires_at else None


def _order_token(secret: str) -> str:
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"order", hashlib.sha256).hexdigest()


def _values(cookies: str, name: str) -> Iterable[str]:
    """In the order in which a browser sends them: that of the longest path first."""
    for pair in cookies.split(";"):
        found, _, value = pair.strip().partition("=")
        if found == name and value:
            yield value


def _origin(url: str) -> str:
    split = urlsplit(url.lower())
    return f"{split.scheme}://{split.netloc}"


def _path(url: str) -> str:
    return urlsplit(url).path.rstrip("/") or "/"
