"""Where callbacks may go: which URLs a job may name, and which addresses their hosts may have.

An URL is brought into one form before it is compared, so that nothing is let in, or kept out, by how it is
spelled. A name is compared when the job is handed in; what addresses it has is looked at for each try, as
that may change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import inet_aton
from typing import Final

import idna

from orchestrator.errors import OrchestratorError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST: Final = 2000
"""Characters of an URL."""

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<place>[^/?#\\]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?",
    re.ASCII | re.IGNORECASE,
)
_PLACE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@%]+)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}

_NAT64: Final = ip_network("64:ff9b::/96")
_UNICAST: Final = ip_network("2000::/3")
_6TO4: Final = ip_network("2002::/16")


class NotAllowed(OrchestratorError):
    """The URL may not be called; the text says why, and what is allowed."""


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host that may be called. `below`: every name below it, not itself. `port` None: the default one of
    the scheme; 0: any."""

    host: str
    below: bool = False
    port: int | None = None

    def has(self, host: str) -> bool:
        return host.endswith(f".{self.host}") if self.below else host == self.host

    def takes(self, scheme: str, port: int) -> bool:
        return self.port == 0 or port == (_PORTS[scheme] if self.port is None else self.port)

    def __str__(self) -> str:
        name = f"*.{self.host}" if self.below else self.host
        return name if self.port is None else f"{name}:{self.port or '*'}"


def parse_rule(text: str) -> HostRule:
    """`portal.example.org`, `*.example.org`, `[2001:db8::1]`, each with `:8443` or `:*` behind if it has to
    be. Raises ValueError."""
    rest, any_port = (text[:-2], True) if text.endswith(":*") else (text, False)
    below = rest.startswith("*.")
    host, port = _split(rest[2:] if below else rest)
    if any_port and port is not None:
        raise ValueError("it has two ports")
    found = _host(host)
    if below and _literal(found) is not None:
        raise ValueError("an address has no names below it")
    return HostRule(found, below, 0 if any_port else port)


@dataclass(frozen=True, slots=True)
class CallbackHosts:
    """The hosts that may be called, and the networks of private addresses that they may have."""

    rules: tuple[HostRule, ...] = ()
    private: tuple[Network, ...] = ()

    def url(self, text: str) -> str:
        """The URL in its one form, if it may be called. Raises NotAllowed."""
        if not self.rules:
            raise NotAllowed("callbacks are off on this server; its setting callback_hosts turns them on")
        scheme, host, port, rest = _parse(text)
        of_host = [rule for rule in self.rules if rule.has(host)]
        known = ", ".join(map(str, self.rules))
        if not of_host:
            raise NotAllowed(f"host {host} is not allowed; allowed: {known}")
        if not any(rule.takes(scheme, port) for rule in of_host):
            raise NotAllowed(f"port {port} of host {host} is not allowed; allowed: {known}")
        address = _literal(host)
        if address is not None and not self.may_have(address):
            raise NotAllowed(f"{host} is a private address, which the setting callback_private has to allow")
        place = host if port == _PORTS[scheme] else f"{host}:{port}"
        return f"{scheme}://{place}{rest}"

    def may_have(self, address: Address) -> bool:
        """Whether a host that may be called may be at this address: a public one, or one of `private`."""
        plain = _unmap(address)
        if plain.is_multicast or plain.is_unspecified:
            return False
        return is_public(plain) or any(plain in network for network in self.private)

    def out_of_reach(self) -> Sequence[HostRule]:
        """Rules for addresses that are private and not allowed to be."""
        found = [(rule, _literal(rule.host)) for rule in self.rules]
        return [rule for rule, address in found if address is not None and not self.may_have(address)]


def is_public(address: Address) -> bool:
    """Whether it is an address of the Internet, whatever it is wrapped in."""
    address = _unmap(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _6TO4:
        return is_public(IPv4Address((int(address) >> 80) & 0xFFFFFFFF))
    return address in _UNICAST and address.is_global and not address.is_multicast


def _unmap(address: Address) -> Address:
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


# ------------------------------------------------------------------ one form


def _parse(text: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and the path with the query. Raises NotAllowed."""
    if len(text) > LONGEST:
        raise NotAllowed(f"it has {len(text)} characters, and {LONGEST} are allowed")
    if "#" in text:
        raise NotAllowed("it has a fragment (#...), which no server is sent")
    found = _URL.fullmatch(text)
    if found is None:
        raise NotAllowed("an URL such as https://portal.example.org/done was expected")
    rest = (found["path"] or "/") + (found["query"] or "")
    if not re.fullmatch(r"[\x21-\x7e]+", rest, re.ASCII) or "\\" in rest:
        raise NotAllowed("its path has characters that have to be written as %XX")
    if "@" in found["place"]:
        raise NotAllowed("it has a user or a password, which would be stored and shown")
    scheme = found["scheme"].lower()
    try:
        host, port = _split(found["place"])
        return scheme, _host(host), _PORTS[scheme] if port is None else port, rest
    except ValueError as error:
        raise NotAllowed(str(error)) from None


def _split(place: str) -> tuple[str, int | None]:
    if place.count(":") > 1 and "[" not in place:
        place = f"[{place}]"
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError(f"{place[:100]!r} is no host")
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not 0 < port < 1 << 16:
        raise ValueError(f"{port} is no port")
    return found["host"], port


def _host(text: str) -> str:
    """As it is compared: lower case, in ASCII, without a dot at its end; addresses as they are usually
    written. Raises ValueError."""
    wrong = ValueError(f"{text[:100]!r} is no host")
    if text.startswith("["):
        try:
            address = _unmap(IPv6Address(text[1:-1]))
        except ValueError:
            raise wrong from None
        return str(address) if isinstance(address, IPv4Address) else f"[{address}]"
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise wrong from None
    text = text.lower().removesuffix(".")
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        if not all(_NUMBER.fullmatch(label) for label in labels):
            raise wrong
        try:
            # As resolvers take it: up to four parts, decimal, octal or hexadecimal; the last fills the rest.
            return str(IPv4Address(inet_aton(".".join("0" if label == "0x" else label for label in labels))))
        except OSError:
            raise wrong from None
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise wrong
    return text


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
