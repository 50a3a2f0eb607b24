"""Signed links: a URL that gives one file, or the results of a job, to whoever has it, until it expires.

The signature is over the path, the time and the token that the link was made with; that token's hash goes
into it, so that a link is worth what its token is, and nothing once that is revoked or made anew. It opens
this path to be read, and no other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote

from actors.store.kept_file import keep_secret
from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Head
from orchestrator.access.roles import Principal, Role
from orchestrator.access.tokens import Tokens

KEY_FILE: Final = "links.key"
PARAMETER: Final = "link"
VIEW: Final = "&view=1"
"""The end of a link by which a file is shown in a page. It is signed too."""
LONGEST: Final = 7 * 86_400
"""Seconds for which a link may hold."""
RULES: Final = frozenset({"/v1/jobs/<number>/results", "/v1/jobs/<number>/files/<file:path>"})
"""The routes that links are for."""

_BYTES: Final = 32
_FORM: Final = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})\.([A-Za-z0-9._-]{0,100})", re.ASCII)


def load_key(data: Path) -> bytes:
    """The key of links, from its file, or made and put there: links of a file that is damaged hold no more.
    Blocks. Raises OSError."""
    return keep_secret(data / KEY_FILE, lambda key: len(key) == _BYTES, secrets.token_bytes(_BYTES))


@dataclass(frozen=True, slots=True)
class Links:
    """Makes links and knows them again. `now` is the wall clock."""

    key: bytes
    tokens: Tokens
    now: Callable[[], float]

    def make(self, path: str, maker: Principal, expires_at: int, *, view: bool = False) -> str:
        """The path, as it has to stand in a URL, with its signature; with `view` that of the file as it is
        shown in a page."""
        token, more = maker.token or "", VIEW if view else ""
        signature = self._sign(path + more, token, expires_at)
        return f"{quote(path)}?{PARAMETER}={expires_at}.{signature}.{quote(token)}{more}"

    def read(self, head: Head) -> Principal | None:
        """Who the link is from; None for a request that comes with none. Raises Refusal (403)."""
        if head.rule not in RULES or head.method not in ("GET", "HEAD") or f"{PARAMETER}=" not in head.query:
            return None
        query, more = (head.query.removesuffix(VIEW), VIEW) if head.query.endswith(VIEW) else (head.query, "")
        given = parse_qs(query, keep_blank_values=True, max_num_fields=100)
        found = _FORM.fullmatch(given[PARAMETER][0]) if list(given) == [PARAMETER] else None
        if found is None or len(given[PARAMETER]) != 1:
            raise _refused("changed_link", "this link is not as it was made")
        expires_at, shown, token = int(found[1]), found[2], found[3]
        record = self.tokens.get(token) if token else None
        if token and (record is None or not self.tokens.holds(record)):
            raise _refused("revoked_link", "the token that this link was made with holds no more")
        if not hmac.compare_digest(shown, self._sign(head.path + more, token, expires_at)):
            raise _refused("changed_link", "this link is not as it was made, or its key was made anew")
        if expires_at <= self.now():
            raise _refused("expired_link", "this link has expired")
        # The path says whose job it is: what the token may see besides is closed all the same.
        maker = Principal(Role.OPERATOR, "") if record is None else record.principal
        name = f"a link of {maker.name}" if maker.name else "a link"
        return Principal(maker.role, name, maker.services, maker.user, maker.token)

    def _sign(self, path: str, token: str, expires_at: int) -> str:
        record = self.tokens.get(token) if token else None
        digest = "" if record is None else record.hash
        signed = "\n".join(("GET", str(expires_at), token, digest, path))
        return hmac.new(self.key, signed.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _refused(code: str, detail: str) -> Refusal:
    return Refusal(403, code, f"{detail}; whoever gave it can make another")
