"""What web pages may ask of a port that programs talk to.

Whoever can reach a port may have a browser, and a page of any origin in it can send requests there: orders
with a form, and everything once the page's own host name is made to resolve to this machine (DNS rebinding).
What a browser says of itself decides; programs say none of it and pass.

1. An order (any method but GET, HEAD, OPTIONS) with an `Origin` that is neither of this machine nor ours is
   refused. Comparing `Origin` with `Host` is no check: rebinding makes them equal.
2. So is an order that a browser marks as coming from another site (`Sec-Fetch-Site: cross-site`), unless its
   `Origin` is ours.
3. A request to a `Host` that is neither this machine, nor the very address that it came to, nor ours, is
   misdirected. Exempt are paths that have to answer whoever asks: `exempt` of the guard.

Of this machine are the loopback names and addresses, at any port.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Admit, Head

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class OwnNames:
    """Under which names we are known: hosts and origins, all in lower case."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, urls: Iterable[str]) -> OwnNames:
        """The names in base URLs."""
        split = [urlsplit(url.lower()) for url in urls if url]
        return cls(
            frozenset(one.hostname or "" for one in split),
            frozenset(f"{one.scheme}://{one.netloc}" for one in split),
        )

    def with_origins(self, others: Iterable[str]) -> OwnNames:
        """The same, with further origins whose pages may give orders."""
        return OwnNames(self.hosts, self.origins | frozenset(others))


@lru_cache(maxsize=64)  # they are as long as whoever asks likes
def is_loopback(host: str) -> bool:
    """Whether a host name or address, brackets allowed, is this machine's loopback by its very form."""
    name = host.strip("[]").lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def may_order(origin: str | None, fetch_site: str | None, names: OwnNames, local: str = "localhost") -> bool:
    """Rules 1 and 2, of an order that came to the address `local`."""
    if origin is not None and origin.lower() in names.origins:
        return True
    if fetch_site is not None and fetch_site.lower() == "cross-site":
        return False
    return origin is None or (is_loopback(host_of(origin.partition("://")[2])) and is_loopback(local))


def is_meant(host: str | None, local: str, names: OwnNames) -> bool:
    """Rule 3. `local` is the address that the connection came to. Without a host no browser asks."""
    if host is None:
        return True
    name = host_of(host.lower())
    return is_loopback(name) or name in names.hosts or name == local.lower()


@lru_cache(maxsize=64)
def host_of(authority: str) -> str:
    """The host of `host[:port]`, without brackets; empty for what is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def make_guard(names: OwnNames, exempt: Callable[[str], bool], hint: str, page_hint: str) -> Admit:
    """What stands before every route. `hint` says how a name is made ours, `page_hint` how an origin."""

    @lru_cache(maxsize=64)
    def is_ours(host: str | None, local: str) -> bool:
        return is_meant(host, local, names)

    async def guard(head: Head) -> None:
        if not exempt(head.path):
            host = head.header("host")
            if not is_ours(host, head.local):
                raise Refusal(421, "unknown_host", f"this server is not known as {host!r}; {hint}")
        if head.method in READS:
            return
        origin = head.header("origin")
        if not may_order(origin, head.header("sec-fetch-site"), names, head.local):
            origin = "another site" if origin is None else origin
            raise Refusal(403, "foreign_origin", f"pages of {origin!r} may not give orders here; {page_hint}")

    return guard


async def refuse_pages(head: Head) -> None:
    """Stands before every route of a port that no browser has to do with: what a page sends is refused."""
    site = head.header("sec-fetch-site") or "none"
    if head.header("origin") is not None or site.lower() != "none":
        raise Refusal(403, "foreign_origin", "web pages have no access to a node")
