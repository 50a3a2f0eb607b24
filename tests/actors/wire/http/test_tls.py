"""A server that speaks TLS: what it shows, when that is renewed, and whoever does not speak it."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from quart import Response, request
from support.data.certificates import self_signed

from actors.wire.http.app import make_app
from actors.wire.http.server import serve
from actors.wire.http.tls import LOOK_EVERY, NoCertificate, OwnCertificate, authorities_of

NAME = "localhost"
BIG = b"x" * (3 << 20)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def shown(tmp_path: Path) -> tuple[OwnCertificate, Clock, list[str]]:
    self_signed(tmp_path, NAME)
    clock, complaints = Clock(), list[str]()
    return (
        OwnCertificate(tmp_path / "cert.pem", tmp_path / "key.pem", clock.now, complaints.append),
        clock,
        complaints,
    )


@asynccontextmanager
async def served(tls: OwnCertificate) -> AsyncIterator[str]:
    app, shutdown = make_app("test", lambda error: None), trio.Event()

    @app.get("/")
    async def scheme() -> Response:
        return Response(request.scheme)

    @app.get("/big")
    async def big() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield BIG

        return Response(pieces())

    @app.post("/back")
    async def back() -> Response:
        return Response(b"".join([bytes(piece) async for piece in request.body]))

    async with trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(
                app,
                host="127.0.0.1",
                port=0,
                shutdown=shutdown,
                task_status=task_status,
                plain=app.plain,
                tls=tls,
            )

        (url,) = await nursery.start(listen)
        with trio.fail_after(60):
            yield url.replace("127.0.0.1", NAME)
        shutdown.set()


def trusting(pem: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=authorities_of(pem), trust_env=False, timeout=60)


async def test_it_speaks_tls_alone_and_answers_as_ever(
    tmp_path: Path, shown: tuple[OwnCertificate, Clock, list[str]]
) -> None:
    async with served(shown[0]) as url:
        assert url.startswith("https://")
        async with trusting(tmp_path / "cert.pem") as client:
            for _ in range(3):
                assert (await client.get(url)).text == "https"
            assert (await client.get(f"{url}/big")).content == BIG
            assert (await client.post(f"{url}/back", content=BIG)).content == BIG
            assert (await client.get(f"{url}/none")).status_code == 404
        async with httpx.AsyncClient(trust_env=False) as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.get(url)
            with pytest.raises(httpx.HTTPError):
                await stranger.get(url.replace("https", "http"))
        async with trusting(tmp_path / "cert.pem") as client:
            assert (await client.get(url)).status_code == 200


async def test_a_renewed_certificate_is_taken_up_by_the_next_connection(
    tmp_path: Path, shown: tuple[OwnCertificate, Clock, list[str]]
) -> None:
    tls, clock, complaints = shown
    old = tmp_path / "old.pem"
    old.write_bytes((tmp_path / "cert.pem").read_bytes())
    async with served(tls) as url, trusting(old) as before:
        assert (await before.get(url)).status_code == 200
        self_signed(tmp_path, NAME)
        clock.time += LOOK_EVERY
        async with trusting(tmp_path / "cert.pem") as after:
            assert (await after.get(url)).status_code == 200
        # The connection of before stands, and no new one does.
        assert (await before.get(url)).status_code == 200
        async with trusting(old) as late:
            with pytest.raises(httpx.ConnectError):
                await late.get(url)
        # Half of a renewal is none.
        (tmp_path / "key.pem").write_text("torn")
        clock.time += LOOK_EVERY
        async with trusting(tmp_path / "cert.pem") as after:
            assert (await after.get(url)).status_code == 200
        (complaint,) = complaints
        assert "key.pem" in complaint
        for path in (tmp_path / "key.pem", tmp_path / "cert.pem"):
            path.unlink()
        clock.time += LOOK_EVERY
        async with trusting(old) as late:
            with pytest.raises(httpx.ConnectError):
                await late.get(url)


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem"])
def test_what_cannot_be_read_ends_the_start(tmp_path: Path, broken: str) -> None:
    self_signed(tmp_path, NAME)
    (tmp_path / broken).write_text("-----BEGIN")
    with pytest.raises(NoCertificate, match=broken):
        OwnCertificate(tmp_path / "cert.pem", tmp_path / "key.pem", time.monotonic, print)
    os.unlink(tmp_path / broken)
    with pytest.raises(NoCertificate, match="No such file"):
        OwnCertificate(tmp_path / "cert.pem", tmp_path / "key.pem", time.monotonic, print)


async def test_who_says_nothing_or_leaves_holds_nothing_up(
    shown: tuple[OwnCertificate, Clock, list[str]], tmp_path: Path
) -> None:
    async with served(shown[0]) as url:
        host, port = url.removeprefix("https://").split(":")
        silent = await trio.open_tcp_stream(host, int(port))
        gone = await trio.open_tcp_stream(host, int(port))
        await gone.send_all(b"\x16\x03\x01")
        await gone.aclose()
        async with trusting(tmp_path / "cert.pem") as client:
            assert (await client.get(url)).status_code == 200
        # One that ends in the middle of a request, without the end of TLS.
        stream = trio.SSLStream(
            await trio.open_tcp_stream(host, int(port)),
            authorities_of(tmp_path / "cert.pem"),
            server_hostname=NAME,
        )
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n")
        await stream.transport_stream.aclose()
        async with trusting(tmp_path / "cert.pem") as client:
            assert (await client.get(url)).status_code == 200
        await silent.aclose()


def test_old_protocols_are_not_spoken(shown: tuple[OwnCertificate, Clock, list[str]]) -> None:
    assert shown[0].context().minimum_version >= ssl.TLSVersion.TLSv1_2
