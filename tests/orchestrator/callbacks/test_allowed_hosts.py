"""Which URLs may be called: whatever they are spelled like, and whatever address is behind them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.callbacks.allowed_hosts import CallbackHosts, NotAllowed, is_public, parse_rule


def hosts(*rules: str, private: tuple[str, ...] = ()) -> CallbackHosts:
    return CallbackHosts(tuple(map(parse_rule, rules)), tuple(map(ip_network, private)))


SOME = hosts("portal.example.org", "*.jobs.example", "lab.example:8443", "any.example:*", "bücher.example")


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("https://portal.example.org/done", "https://portal.example.org/done"),
        ("HTTPS://Portal.EXAMPLE.org./done?x=%20#", None),
        ("https://portal.example.org", "https://portal.example.org/"),
        ("http://portal.example.org?a=b", "http://portal.example.org/?a=b"),
        ("https://PORTAL.example.org.:443/a/../b", "https://portal.example.org/a/../b"),
        ("https://a.b.jobs.example/", "https://a.b.jobs.example/"),
        ("https://jobs.example/", None),
        ("https://xjobs.example/", None),
        ("https://portal.example.org:8443/", None),
        ("https://lab.example:8443/", "https://lab.example:8443/"),
        ("https://lab.example/", None),
        ("http://any.example:1/", "http://any.example:1/"),
        ("https://B\u00dcCHER.example/", "https://xn--bcher-kva.example/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://portal\u3002example\uff0eorg/", "https://portal.example.org/"),
        ("ftp://portal.example.org/", None),
        ("//portal.example.org/", None),
        ("https:///portal.example.org/", None),
        ("https:portal.example.org", None),
        ("https://u@portal.example.org/", None),
        ("https://u:p@portal.example.org/", None),
        ("https://evil.example\\@portal.example.org/", None),
        ("https://evil.example\\.portal.example.org/", None),
        ("https://portal.example.org%2f.evil.example/", None),
        ("https://portal.example.org%00/", None),
        ("https://portal.example.org../", None),
        ("https://portal.example.org:/", None),
        ("https://portal.example.org:0443/", "https://portal.example.org/"),
        ("https://portal.example.org:99999/", None),
        ("https://portal.example.org:0/", None),
        ("https://portal.example.org/ x", None),
        ("https://portal.example.org/a\\b", None),
        ("https://portal.example.org/\r\nx: y", None),
        ("https://portal.example.org/\u00e9", None),
        (" https://portal.example.org/", None),
        ("https://portal.example.org/" + 2000 * "x", None),
        ("https://", None),
        ("", None),
    ],
)
def test_an_url_has_one_form_or_is_refused(given: str, form: str | None) -> None:
    if form is None:
        with pytest.raises(NotAllowed):
            SOME.url(given)
    else:
        assert SOME.url(given) == form


@pytest.mark.parametrize(
    "spelled",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "0x7f.1",
        "0X7F.0.0.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0177.0.0.01",
        "\uff11\uff12\uff17.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7f00:1]",
    ],
)
def test_an_address_is_the_same_in_each_of_its_forms(spelled: str) -> None:
    url = f"http://{spelled}:8080/x"
    with pytest.raises(NotAllowed, match=r"127\.0\.0\.1 is not allowed"):
        SOME.url(url)
    with pytest.raises(NotAllowed, match="private address"):
        hosts("127.0.0.1:8080").url(url)
    allowed = hosts("127.0.0.1:8080", private=("127.0.0.0/8",))
    assert allowed.url(url) == "http://127.0.0.1:8080/x"


@pytest.mark.parametrize(
    "spelled", ["256.1", "1.2.3.4.5", "0x100.1.1.1", "1.2.3.256", "08.1", "a.1", "4294967296"]
)
def test_what_looks_like_an_address_and_is_none_is_refused(spelled: str) -> None:
    with pytest.raises(NotAllowed, match="no host"):
        SOME.url(f"http://{spelled}/")


def test_a_refusal_says_what_is_allowed() -> None:
    with pytest.raises(
        NotAllowed, match=r"host evil\.example is not allowed; allowed: portal\.example\.org, "
    ):
        SOME.url("https://evil.example/")
    with pytest.raises(NotAllowed, match=r"port 99 of host lab\.example .*lab\.example:8443"):
        SOME.url("https://lab.example:99/")
    with pytest.raises(NotAllowed, match="setting callback_hosts"):
        CallbackHosts().url("https://portal.example.org/")


@given(st.ip_addresses(v=4), st.sampled_from(["dec", "hex", "oct", "two", "three"]), st.integers(1, 65535))
def test_any_spelling_of_an_ipv4_address_is_compared_as_the_address(
    address: IPv4Address, form: str, port: int
) -> None:
    value = int(address)
    a, b, c, d = address.packed
    spelled = {
        "dec": str(value),
        "hex": hex(value),
        "oct": f"0{value:o}",
        "two": f"{a}.{value & 0xFFFFFF}",
        "three": f"0x{a:x}.0{b:o}.{c * 256 + d}",
    }[form]
    allowed = hosts(f"{address}:*", private=("0.0.0.0/0",))
    if address.is_multicast or address.is_unspecified:
        with pytest.raises(NotAllowed):
            allowed.url(f"http://{spelled}:{port}/")
    else:
        assert httpx.URL(allowed.url(f"http://{spelled}:{port}/")).host == str(address)


@given(st.text(max_size=40))
def test_whatever_is_let_in_goes_to_an_allowed_host_and_stays_as_it_is(text: str) -> None:
    for spelled in (
        text,
        f"https://{text}",
        f"https://portal.example.org{text}",
        f"https://{text}.jobs.example/",
    ):
        try:
            url = SOME.url(spelled)
        except NotAllowed:
            continue
        assert SOME.url(url) == url
        # As the one who sends reads it.
        read = httpx.URL(url)
        host = read.raw_host.decode()
        assert host in {"portal.example.org", "lab.example", "any.example", "xn--bcher-kva.example"} or (
            host.endswith(".jobs.example")
        )
        assert not read.userinfo and not read.fragment


@given(st.ip_addresses(v=4))
def test_an_address_that_is_wrapped_is_as_public_as_what_is_in_it(address: IPv4Address) -> None:
    public = is_public(address)
    assert is_public(IPv6Address(f"::ffff:{address}")) == public
    assert is_public(IPv6Address(f"64:ff9b::{address}")) == public
    assert is_public(IPv6Address((0x2002 << 112) | (int(address) << 80) | 1)) == public
    assert not is_public(IPv6Address(f"::{address}"))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_no_address_of_a_private_or_special_network_is_public(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not SOME.may_have(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


def test_private_networks_are_allowed_one_by_one() -> None:
    some = hosts("portal.example", private=("10.1.0.0/16", "fd00::/8"))
    assert some.may_have(ip_address("10.1.2.3")) and some.may_have(ip_address("::ffff:10.1.2.3"))
    assert some.may_have(ip_address("fd00::1")) and some.may_have(ip_address("8.8.8.8"))
    assert not some.may_have(ip_address("10.2.0.1")) and not some.may_have(ip_address("169.254.169.254"))
    everything = hosts("portal.example", private=("0.0.0.0/0", "::/0"))
    assert not everything.may_have(ip_address("0.0.0.0")) and not everything.may_have(ip_address("224.0.0.1"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Portal.Example.org.", "portal.example.org"),
        ("*.Example.org", "*.example.org"),
        ("*.example.org:*", "*.example.org:*"),
        ("h:8443", "h:8443"),
        ("h:*", "h:*"),
        ("::1", "[::1]"),
        ("[::1]:80", "[::1]:80"),
        ("0x7f.1:*", "127.0.0.1:*"),
        ("my_portal:8000", "my_portal:8000"),
    ],
)
def test_an_entry_is_read_as_an_url_is(text: str, told: str) -> None:
    assert str(parse_rule(text)) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "*.",
        "*.127.0.0.1",
        "a*.example",
        "https://h",
        "h/x",
        "h:0",
        "h:8:*",
        "u@h",
        "h:x",
        "h h",
        "[h]",
    ],
)
def test_an_entry_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(text)
