"""The URL of an orchestrator: its one form, and whether others can read what is sent there."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import quote, urlsplit

from orchestrator.client.errors import BadInput

_HOST: Final = re.compile(rb"(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
"""A name or an address."""
_PORTS: Final = {"http": 80, "https": 443}
_IN_A_PATH: Final = "/%:@!$&'()*+,;=~"


def normalize_url(url: str) -> str:
    """The URL in its normal form, without slashes at its end. Raises BadInput."""
    refused = BadInput(f"{url!r} is no URL of an orchestrator; it looks like http://127.0.0.1:5000")
    try:
        parts = urlsplit(url)
        host, port = _encode_host(parts.hostname or ""), parts.port
    except ValueError:
        raise refused from None
    # Of control characters some are passed over when it is taken apart.
    usable = parts.scheme in _PORTS and _HOST.fullmatch(host) and not re.search(r"[\0-\x1f\x7f]", url)
    if not usable or parts.query or parts.fragment:
        raise refused
    name = host.decode()
    person, at, _ = parts.netloc.rpartition("@")
    netloc = f"{person}{at}{f'[{name}]' if ':' in name else name}"
    if port is not None and port != _PORTS[parts.scheme]:
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{quote(parts.path, safe=_IN_A_PATH)}".rstrip("/")


def exposes(url: str) -> bool:
    """Whether others can read what is sent there: it is neither encrypted nor for this machine."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "http" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _encode_host(host: str) -> bytes:
    """As it stands in a request. Raises ValueError."""
    if host.isascii():
        return host.encode()
    import idna  # Late: it is large, and few hosts need it.

    return idna.encode(host)
