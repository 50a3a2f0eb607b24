"""Who is at the other end of a connection: addresses, networks, names of hosts."""

from __future__ import annotations

import ipaddress
import socket

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_server(text: str) -> bool:
    """Whether it is an address, a network or the name of a host."""
    if parse_network(text) is not None:
        return True
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and all(c.isascii() and (c.isalnum() or c in "-_") for c in label)
        for label in labels
    )


def parse_network(text: str) -> IpNetwork | None:
    """That of one address, too; None for a name."""
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def parse_address(text: str) -> IpAddress | None:
    """One of IPv4 that is written as one of IPv6 is the former; None for what is none."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped


def resolve(name: str) -> frozenset[str]:
    """The addresses of a host's name; none where it is not known. Blocks."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    addresses = (parse_address(str(place[0])) for *_, place in found)
    return frozenset(str(address) for address in addresses if address is not None)


def is_own(address: IpAddress) -> bool:
    """Whether it is one of this machine's, or may be: the kernel binds to no other."""
    if address.is_loopback or (address.version == 6 and address.is_link_local):
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
