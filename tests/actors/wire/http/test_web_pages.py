from __future__ import annotations

import pytest

from actors.wire.http.web_pages import OwnNames, is_loopback, is_meant, may_order

PORTAL = OwnNames.of(["https://Portal.example.org/jobs", "http://node-a:5000", ""])


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "app.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"],
)
def test_what_is_this_machine_by_its_form(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", "evil", "127.1", "[::2]"],
)
def test_what_only_looks_like_it(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("origin", "site", "passes"),
    [
        (None, None, True),
        (None, "none", True),
        (None, "same-origin", True),
        (None, "cross-site", False),
        (None, "Cross-Site", False),
        ("http://localhost:3000", None, True),
        ("http://127.0.0.1:5000", "same-origin", True),
        ("http://[::1]:8080", None, True),
        ("http://localhost:3000", "cross-site", False),
        ("https://evil.example", None, False),
        ("http://127.0.0.1.evil.example", None, False),
        ("http://localhost@evil.example", None, False),
        ("http://evil.example:5000", "same-origin", False),  # rebound to this machine
        ("null", None, False),
        ("", None, False),
        ("file://", None, False),
        ("http://[::1", None, False),
        ("https://portal.example.org", "cross-site", True),
        ("HTTPS://PORTAL.EXAMPLE.ORG", None, True),
        ("http://portal.example.org", None, False),
        ("https://portal.example.org:8443", None, False),
        ("http://node-a:5000", None, True),
    ],
)
def test_who_may_give_orders(origin: str | None, site: str | None, passes: bool) -> None:
    assert may_order(origin, site, PORTAL) is passes


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        (None, True),
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("[::1]:5000", True),
        ("10.1.2.3:5000", True),  # the address that the connection came to
        ("10.1.2.4:5000", False),
        ("evil.example", False),
        ("evil.example:5000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("", False),
        ("portal.example.org", True),
        ("PORTAL.example.org:443", True),
        ("node-a", True),
        ("node-a.evil.example", False),
    ],
)
def test_whom_a_request_is_meant_for(host: str | None, passes: bool) -> None:
    assert is_meant(host, "10.1.2.3", PORTAL) is passes
