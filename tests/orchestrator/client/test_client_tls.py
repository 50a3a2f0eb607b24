"""https: whose certificate is believed, and what is said of one that is not; tokens in the open."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.processes.processes import Started

from orchestrator.cli import main
from orchestrator.client import AsyncClient, BadInput, Client, Retries, Untrusted
from orchestrator.client.async_transport import AsyncWire
from orchestrator.client.transport import Call, SyncWire, run_straight
from orchestrator.client.urls import exposes, normalize_url

ONCE = Retries(tries=3, first=0.01, longest=0.01, patience=0.1)


class Authority:
    """A private certificate authority; its certificate is the file `path`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "private authority")])
        made = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(True, 0), critical=True
        )
        self.path = directory / "authority.pem"
        self.path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def serving(self, host: str) -> ssl.SSLContext:
        """What a server at this host shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        made = self._builder(name, key).add_extension(hosts, critical=False).sign(self._key, hashes.SHA256())
        path = self._directory / f"{host}.pem"
        path.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def encrypted(nursery: trio.Nursery, target: str, context: ssl.SSLContext) -> str:
    """The URL of what speaks TLS in front of the server at `target`."""
    port = int(target.rpartition(":")[2])

    async def carry(source: trio.abc.ReceiveStream, to: trio.abc.SendStream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(65536):
                await to.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def link(near: trio.SocketStream) -> None:
        inner = trio.SSLStream(near, context, server_side=True, https_compatible=True)
        async with near, await trio.open_tcp_stream("127.0.0.1", port) as far, trio.open_nursery() as both:
            both.start_soon(carry, inner, far, both.cancel_scope)
            both.start_soon(carry, far, inner, both.cancel_scope)

    listeners = await nursery.start(trio.serve_tcp, link, 0)
    return f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


@pytest.fixture
async def url(shared: Started, authority: Authority) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield await encrypted(nursery, shared.url, authority.serving("127.0.0.1"))
        nursery.cancel_scope.cancel()


@pytest.fixture
def token(shared: Started) -> str:
    with Client(shared.url) as client:
        return client.create_token("operator")["secret"]


async def test_who_knows_the_authority_gets_through(
    url: str, token: str, authority: Authority, tmp_path: Path
) -> None:
    async with AsyncClient(url, token=token, ca_file=authority.path) as client:
        job = await client.submit({"run.sh": b"echo over TLS"}, user=1)
        assert (await client.wait(job.id)).succeeded
        await client.download(job.id, tmp_path / "r.zip")

    def plain() -> list[str]:
        with Client(url, ca_file=str(authority.path)) as client:
            return [service.name for service in client.services()]

    assert await trio.to_thread.run_sync(plain) == ["example"]


async def test_who_does_not_is_told_in_a_line_and_asks_once(url: str, authority: Authority) -> None:
    with pytest.raises(Untrusted, match=r"is not trusted \(.*ORCHESTRATOR_CA_FILE") as told:
        async with AsyncClient(url, retries=ONCE) as client:
            await client.services()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("scheme", ["HTTPS", "Https", "httpS"])
async def test_a_scheme_in_capitals_is_as_strict(
    url: str, token: str, authority: Authority, tmp_path: Path, scheme: str
) -> None:
    spelled = url.replace("https", scheme)
    with pytest.raises(Untrusted):
        async with AsyncClient(spelled, token="secret", retries=ONCE) as client:
            await client.services()

    def plain() -> None:
        with pytest.raises(Untrusted), Client(spelled, token="secret", retries=ONCE) as client:
            client.services()
        with Client(spelled, token=token, ca_file=authority.path) as client:
            client.services()
        told = {"ORCHESTRATOR_TOKEN": "secret", "XDG_CONFIG_HOME": str(tmp_path)}
        done = CliRunner().invoke(main, ["ls", "--url", spelled], env=told)
        assert done.exit_code == 1 and "is not trusted" in done.stderr

    await trio.to_thread.run_sync(plain)


async def test_who_was_made_for_plain_http_believes_no_certificate(url: str, shared: Started) -> None:
    async def ask(wire: AsyncWire | SyncWire) -> None:
        wire.url = url
        with pytest.raises(Untrusted):
            async with wire.open(Call("GET", "/v1/services")):
                pass
        await wire.close()

    await ask(AsyncWire(shared.url, {}))
    await trio.to_thread.run_sync(lambda: run_straight(ask(SyncWire(shared.url, {}))))


async def test_a_certificate_for_another_host_is_not_believed(shared: Started, authority: Authority) -> None:
    async with trio.open_nursery() as nursery:
        url = await encrypted(nursery, shared.url, authority.serving("127.0.0.2"))
        with pytest.raises(Untrusted, match="IP address mismatch"):
            async with AsyncClient(url, ca_file=authority.path, retries=ONCE) as client:
                await client.services()
        nursery.cancel_scope.cancel()


def test_https_where_http_is_spoken_is_told(shared: Started) -> None:
    url = shared.url.replace("http:", "https:")
    with pytest.raises(Untrusted, match="is it https there"), Client(url, retries=ONCE) as client:
        client.services()


async def test_the_command_takes_the_authority_from_environment_and_file(
    url: str, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "orchestrator").mkdir()
    config = tmp_path / "orchestrator" / "config.toml"
    config.write_text(f'ca_file = "{authority.path}"\n')

    def run(**environment: str) -> tuple[int, str]:
        told = {"ORCHESTRATOR_URL": url, "XDG_CONFIG_HOME": "/nowhere", **environment}
        done = CliRunner().invoke(main, ["ls"], env=told)
        return done.exit_code, done.stderr

    for known in ({"ORCHESTRATOR_CA_FILE": str(authority.path)}, {"XDG_CONFIG_HOME": str(tmp_path)}):
        assert await trio.to_thread.run_sync(lambda known=known: run(**known)) == (0, "")
    for wrong, expected, said in (
        ({}, 1, "is not trusted"),
        ({"ORCHESTRATOR_CA_FILE": "/nowhere"}, 2, "cannot be read as certificates: No such file"),
        ({"ORCHESTRATOR_CA_FILE": str(config)}, 2, "it has to be a file in PEM format"),
    ):
        status, errors = await trio.to_thread.run_sync(lambda wrong=wrong: run(**wrong))
        assert status == expected and said in errors.splitlines()[-1], errors


@pytest.mark.parametrize(
    ("url", "others"),
    [
        ("http://127.0.0.1:5000", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:5000/x", False),
        ("http://localhost:5000", False),
        ("http://a.localhost.", False),
        ("https://example.org", False),
        ("HTTPS://example.org", False),
        ("HTTP://LocalHost:5000", False),
        ("http://example.org", True),
        ("HTTP://example.org", True),
        ("http://10.0.0.1:5000", True),
        ("http://localhost.example.org", True),
        ("http://[fe80::1]", True),
    ],
)
def test_a_token_that_others_can_read_is_warned_of(url: str, others: bool) -> None:
    assert exposes(url) is others
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Client(url).close()
        Client(url, token="secret").close()
    assert [("without encryption" in str(one.message), one.filename) for one in caught] == [
        (True, __file__)
    ] * others


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("HTTP://Example.ORG:80/Portal//", "http://example.org/Portal"),
        ("https://example.org:443/?", "https://example.org"),
        ("http://example.org:5000/a#", "http://example.org:5000/a"),
    ],
)
def test_a_url_has_one_form(given: str, normal: str) -> None:
    assert normalize_url(given) == normal


def test_the_command_warns_once() -> None:
    told = {
        "ORCHESTRATOR_URL": "http://192.0.2.1.invalid",
        "ORCHESTRATOR_TOKEN": "x",
        "XDG_CONFIG_HOME": "/no",
    }
    done = CliRunner().invoke(main, ["cancel", "1"], env=told)
    lines = done.stderr.splitlines()
    assert done.exit_code == 1 and len(lines) == 2
    assert lines[0].startswith("warning: the token goes to http://192.0.2.1.invalid without encryption")


def test_a_file_that_is_no_certificate_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="PEM format"):
        Client("https://127.0.0.1:1", ca_file=tmp_path / "missing")
