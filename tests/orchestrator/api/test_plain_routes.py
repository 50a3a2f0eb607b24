"""What is answered without the app is what the app would have answered, byte for byte, whatever comes."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server

from actors.domain.job import Job
from actors.domain.service import Waiting, WaitReason
from actors.domain.status import Status
from actors.wire.http.plain_routes import Answer, PlainRequest
from actors.wire.http.server import serve
from orchestrator.api.http.file_response import SMALL

S = Status
MOST: Final = 200
CHANCES: Final = 10


@dataclass
class Both:
    """One app behind two ports: one answers plain requests by itself, the other hands all to the app."""

    server: Server
    plain: int
    app: int
    without_app: list[bytes]
    """Paths of requests that the first has answered by itself."""

    def exchange(self, port: int, pieces: Sequence[bytes]) -> bytes:
        """What comes back for these bytes until the server closes, but for the date."""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            got = b""
            try:
                for piece in pieces:
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                while piece := sock.recv(1 << 16):
                    got += piece
            except (ConnectionResetError, BrokenPipeError):
                pass  # it was refused before all of it was read
        if b"HTTP/1.1 201" in got:  # a job's id is another one each time
            got = re.sub(rb'(content-length: |/v1/jobs/|"id": )[1-9][0-9]*', b"N", got)
        return re.sub(rb"\r\ndate: [^\r]*", b"", got)

    def compare(self, *pieces: bytes) -> bytes:
        """What both answer. Where it hangs on chance, on whether the end of what was sent is seen before an
        answer, both have some answer in common."""
        found: tuple[set[bytes], set[bytes]] = (set(), set())
        for _ in range(CHANCES):
            for answers, port in zip(found, (self.plain, self.app), strict=True):
                answers.add(self.exchange(port, pieces))
            if common := found[0] & found[1]:
                return common.pop()
        raise AssertionError(f"{pieces!r}: {found[0]!r} without the app, {found[1]!r} with it")


async def finish(server: Server, job: Job, status: Status, content: bytes | None) -> None:
    job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    if content is not None:
        result = server.storage.job(job.storage_key) / "result"
        result.mkdir()
        (result / "result.zip").write_bytes(content)
    await walk(server.ledger, job, status)


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Both]:
    """Jobs 1 to 7: one that waits, one that runs, one with small results, one with larger ones, one whose
    results are missing, one that failed, one that was cleaned."""
    async with api_server(tmp_path) as server, trio.open_nursery() as nursery:
        jobs = [await server.upload(**{"run.sh": b"true"}) for _ in range(7)]
        server.whys[1] = Waiting(WaitReason.SLOT, "waits for a free slot; 2 jobs are before it", 2)
        await walk(server.ledger, jobs[1], S.PROCESSING, S.SUBMITTED, S.RUNNING)
        await finish(server, jobs[2], S.COMPLETED, b"small")
        await finish(server, jobs[3], S.COMPLETED, bytes(SMALL + 1))
        await finish(server, jobs[4], S.COMPLETED, None)
        await finish(server, jobs[5], S.FAILED, None)
        await finish(server, jobs[6], S.FAILED, None)
        job = await server.ledger.get(7)
        assert job is not None
        await walk(server.ledger, job, S.CLEANED)
        shutdown = trio.Event()

        async def listen(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(server.app, host="127.0.0.1", port=0, shutdown=shutdown, task_status=task_status)

        (url,) = await nursery.start(listen)
        ports = [int(one.rpartition(":")[2]) for one in (server.url, url)]
        seen: list[bytes] = []
        answer = server.app.plain.answer

        async def note(asked: PlainRequest) -> Answer | None:
            found = await answer(asked)
            if found is not None:
                seen.append(asked.head.path.encode())
            return found

        monkeypatch.setattr(server.app.plain, "answer", note)
        yield Both(server, ports[0], ports[1], seen)
        shutdown.set()


def get(target: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET %s HTTP/1.1" % target, b"Host: localhost", *headers, b"", b""])


def post(body: bytes, *headers: bytes, kind: bytes = b"multipart/form-data; boundary=B") -> bytes:
    length = b"Content-Length: %d" % len(body)
    lines = [b"POST /upload HTTP/1.1", b"Host: localhost", b"Content-Type: " + kind, length, *headers, b""]
    return b"\r\n".join([*lines, body])


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Of names with values; a name that holds `; ` is one of a file."""
    told = (b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % part for part in parts)
    return b"".join(told) + b"--B--\r\n"


WHOLE: Final = ((b"user_id", b"7"), (b"service", b"example"), (b'file"; filename="run.sh', b"true"))
UPLOADS: Final = [
    post(form(*WHOLE)),
    post(form(*WHOLE, (b"name", b"a name"), (b"other", b"ignored"))),
    post(form(*WHOLE), b"Idempotency-Key: k"),
    post(form(*WHOLE), b"Idempotency-Key: k", b"Idempotency-Key: l"),
    post(form(*WHOLE), b"Idempotency-Key: \xff"),
    post(form(*WHOLE), b"Connection: close"),
    post(form(*WHOLE), b"Expect: 100-continue"),
    post(form(*WHOLE), b"Origin: https://evil.example"),
    post(form(*WHOLE), b"Host: evil.example"),
    post(form(*WHOLE, (b'file"; filename="big', bytes(200_000)))),
    post(form(*WHOLE[1:])),
    post(form(WHOLE[0], *WHOLE)),
    post(form((b"user_id", b"x"), *WHOLE[1:])),
    post(form(*WHOLE[:2], (b'file"; filename="../x', b""))),
    post(form(*WHOLE)[:-9]),
    post(b""),
    post(b"x"),
    post(form(*WHOLE), kind=b"text/plain"),
    post(form(*WHOLE), kind=b"multipart/form-data"),
    post(form(*WHOLE)).replace(b"/upload", b"/upload?x=1"),
    post(form(*WHOLE)).replace(b"/upload", b"/upload/"),
    post(form(*WHOLE)).replace(b"POST", b"PUT"),
    post(form(*WHOLE)).replace(b"Content-Length: ", b"Content-Length: 9"),
    post(form(*WHOLE)).replace(b"Content-Length: ", b"X: "),
    post(b"3\r\nabc\r\n0\r\n\r\n").replace(b"Content-Length: 13", b"Transfer-Encoding: chunked"),
]
PLAIN: Final = [
    b"/",
    b"/health",
    *(b"/download/%d" % number for number in (1, 2, 3, 6, 7, 8)),
    *(b"/v1/jobs/%d" % number for number in (1, 2, 3, 4, 5, 6, 7, 8)),
    b"/download/0",
    b"/download/007",
    b"/download/99999999999999999999",
    b"/v1/jobs/2?wait=0",
    b"/v1/jobs/2?wait=0.01&after=0",
    b"/v1/jobs/2?wait=0.01&until=ended",
    b"/v1/jobs/2?wait=x",
    b"/v1/jobs/2?wait=0&wait=0",
    b"/v1/jobs/2?other=1",
    b"/v1/jobs/2?wait=",
    b"/dashboard",
    b"/dashboard/clock.js",
    b"/dashboard/main.js",
    b"/dashboard/icon.svg",
    b"/dashboard/molecule.html",
]
OTHER: Final = [
    b"/download/4",
    b"/download/5",
    b"/download/1?x=1",
    b"/download/1/",
    b"/download/x",
    b"/download/-1",
    b"/download/%31",
    b"/download/",
    b"//health",
    b"/health?",
    b"/health/",
    b"/Health",
    b"/%68ealth",
    b"/health#x",
    b"/v1/jobs",
    b"/v1/jobs/2?",
    b"/v1/jobs/2?wait",
    b"/v1/jobs/2?wait=%30",
    b"/v1/jobs/2?wait=0&",
    b"/v1/jobs/2;wait=0",
    b"http://localhost/health",
    b"*",
    b"/v1/jobs/2/history",
    b"/dashboard/",
    b"/dashboard/none.js",
    b"/dashboard/index.html",
    b"/dashboard/3Dmol-min.js",
    b"/dashboard/clock.js?x=1",
]


async def test_a_plain_request_is_answered_without_the_app_and_as_it_would(both: Both) -> None:
    for target in PLAIN:
        both.without_app.clear()
        answer = await trio.to_thread.run_sync(both.compare, get(target))
        assert answer.startswith(b"HTTP/1.1 "), target
        assert both.without_app == [target.partition(b"?")[0]]


async def test_any_other_is_the_apps(both: Both) -> None:
    for target in OTHER:
        await trio.to_thread.run_sync(both.compare, get(target))
        assert both.without_app == [], target


HOT: Final = [b"/health", b"/download/1", b"/download/3", b"/v1/jobs/2", b"/dashboard/clock.js"]


@pytest.mark.parametrize("target", HOT)
async def test_no_method_version_host_or_header_makes_a_difference(both: Both, target: bytes) -> None:
    def compare() -> None:
        for header in HEADERS:
            for body in (b"", b"abc"):
                both.compare(get(target, header) + body)
        for host in HOSTS:
            both.compare(b"\r\n".join([b"GET %s HTTP/1.1" % target, *host, b"", b""]))
        for method in METHODS:
            both.compare(method + get(target).removeprefix(b"GET"))
        for version in VERSIONS:
            both.compare(get(target).replace(b"HTTP/1.1", version))
            both.compare(get(target, b"Connection: keep-alive").replace(b"HTTP/1.1", version) + get(target))

    await trio.to_thread.run_sync(compare)
    assert both.without_app


async def test_what_is_asked_on_one_connection_is_answered_in_order(both: Both) -> None:
    asked = b"".join(get(target) for target in [*PLAIN, *OTHER, *PLAIN[:5]])
    answer = await trio.to_thread.run_sync(both.compare, asked)
    assert answer.count(b"HTTP/1.1 ") == len(PLAIN) + len(OTHER) + 5


async def test_an_upload_is_taken_or_refused_as_by_the_app(both: Both) -> None:
    for number, upload in enumerate(UPLOADS):
        both.without_app.clear()
        answer = await trio.to_thread.run_sync(both.compare, upload)
        assert answer.startswith(b"HTTP/1.1 "), (upload, answer)
        if number in (0, 1, 2, 5):
            assert answer.startswith(b"HTTP/1.1 201 ") and both.without_app, (upload, answer)


async def test_uploads_come_in_any_pieces_and_behind_each_other(both: Both) -> None:
    @settings(max_examples=100, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.sampled_from(UPLOADS), min_size=1, max_size=3), st.lists(st.integers(0, 900), max_size=3)
    )
    def compare(uploads: list[bytes], cuts: list[int]) -> None:
        raw = b"".join(uploads)
        places = [0, *sorted(cuts), len(raw)]
        both.compare(*(raw[begin:end] for begin, end in itertools.pairwise(places)))

    await trio.to_thread.run_sync(compare)
    assert len(both.without_app) > 50, "most of what was compared was not plain"


HEADERS: Final = [
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    b"Upgrade: websocket",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Range: bytes=0-1",
    b"Range: bytes=9-",
    b"If-None-Match: *",
    b"Content-Length: 0",
    b"Content-Length: 3",
    b"Content-Length: x",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Expect: 100-continue",
    b"Origin: https://evil.example",
    b"Sec-Fetch-Site: cross-site",
    b"Accept: text/html",
    b"Cookie: session=x",
    b"X-Forwarded-Host: evil.example",
    b"X: \xff\xfe",
    b" folded",
    b"no colon",
]
METHODS: Final = [b"HEAD", b"POST", b"OPTIONS", b"get", b"PUT", b"G\x00T"]
VERSIONS: Final = [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"HTTP"]
HOSTS: Final = [
    [],
    [b"host: 127.0.0.1"],
    [b"Host: localhost:80"],
    [b"Host: evil.example"],
    [b"Host: [::1]:80"],
    [b"Host: [evil]"],
    [b"Host: a b"],
    [b"Host: a/b"],
    [b"Host: a@localhost"],
    [b"Host: localhost:99999"],
    [b"Host: \xff"],
    [b"Host:"],
    [b"Host: localhost", b"Host: localhost"],
]
REQUESTS: Final = st.builds(
    lambda method, target, version, host, headers, body: b"\r\n".join(
        [method + b" " + target + b" " + version, *host, *headers, b"", body]
    ),
    st.sampled_from([b"GET"] * 20 + METHODS),
    st.sampled_from(HOT * 5 + PLAIN + OTHER),
    st.sampled_from([b"HTTP/1.1"] * 20 + VERSIONS),
    st.sampled_from([[b"Host: localhost"]] * 20 + HOSTS),
    st.lists(st.sampled_from(HEADERS), max_size=2),
    st.sampled_from([b""] * 6 + [b"abc", b"3\r\nabc\r\n0\r\n\r\n"]),
)
DAMAGE: Final = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255), st.booleans()), max_size=2)


async def test_whatever_comes_is_answered_or_refused_as_the_app_does(both: Both) -> None:
    """In one piece: what follows the last request of a connection is refused or not by when it comes."""

    @settings(max_examples=MOST, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(REQUESTS, min_size=1, max_size=3), DAMAGE)
    def compare(requests: list[bytes], damage: list[tuple[int, int, bool]]) -> None:
        raw = bytearray(b"".join(requests))
        for place, byte, insert in damage:
            at = place % len(raw)
            raw[at : at + (not insert)] = bytes([byte])
        both.compare(bytes(raw))

    await trio.to_thread.run_sync(compare)
    assert len(both.without_app) > MOST / 20, "most of what was compared was not plain"


async def test_requests_come_in_any_pieces(both: Both) -> None:
    @settings(max_examples=50, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(PLAIN + OTHER), max_size=4), st.lists(st.integers(0, 300), max_size=3))
    def compare(targets: list[bytes], cuts: list[int]) -> None:
        raw = b"".join(get(target) for target in targets)
        places = [0, *sorted(cuts), len(raw)]
        pieces = [raw[begin:end] for begin, end in itertools.pairwise(places)]
        assert both.compare(*pieces).count(b"HTTP/1.1 ") == len(targets)

    await trio.to_thread.run_sync(compare)


async def test_a_head_that_is_too_large_is_refused(both: Both) -> None:
    for target in (b"/health", b"/", b"/download/1"):
        answer = await trio.to_thread.run_sync(both.compare, get(target, b"X: " + b"a" * 300_000))
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), target


async def test_who_waits_and_leaves_is_waited_for_no_more(both: Both) -> None:
    """And who has only closed its side is answered."""
    async with await trio.open_tcp_stream("127.0.0.1", both.plain) as stream:
        await stream.send_all(get(b"/v1/jobs/2?wait=600"))
        while not both.server.waiters.waiting:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_eof()
        assert await stream.receive_some() == b""
    assert not both.server.waiters.waiting


async def test_who_waits_is_answered_when_the_job_changes(both: Both) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", both.plain) as stream:
        await stream.send_all(get(b"/v1/jobs/2?wait=600", b"Connection: close"))
        while not both.server.waiters.waiting:
            await trio.testing.wait_all_tasks_blocked(0.01)
        job = await both.server.ledger.get(2)
        assert job is not None
        await walk(both.server.ledger, job, S.FAILED)
        assert b'"status": "Failed"' in b"".join([piece async for piece in stream])
    assert both.without_app == [b"/v1/jobs/2"]
