"""`POST /upload` over real HTTP: what is taken, what is refused, and that a refusal leaves nothing."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from support.data.ledgers import list_jobs, open_ledger
from support.peers.stalled_senders import answer_to_beginning
from support.processes.api_server import Server, api_server, form, status_body

from actors.domain.job import job_of
from actors.domain.service import ServiceLimits
from actors.ports.ledger import LedgerError
from orchestrator.ledger.ledger import LedgerFull
from orchestrator.storage.disk import Disk
from orchestrator.storage.upload import IncomingFile

RUN = 'name="file"; filename="run.sh"|ls -b > listing.txt'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


async def stored(server: Server, answer: httpx.Response) -> dict[str, bytes]:
    job = await server.ledger.get(answer.json()["id"])
    assert job is not None
    return {name: path.read_bytes() for name, path, _ in await server.storage.input_files(job.storage_key)}


async def refused(server: Server, answer: httpx.Response, status: int, *culprits: str) -> None:
    assert answer.status_code == status, answer.text
    body = status_body(answer)
    assert (body["id"], body["status"]) == (0, "Unknown")
    for culprit in culprits:
        assert culprit in body["message"]
    assert await server.nothing_left()


async def test_an_upload_is_told_its_id_and_found_on_disk(server: Server) -> None:
    answer = await server.post(RUN, 'name="other"; filename="sub/in.pdb"|ATOM')
    assert answer.status_code == 201
    assert status_body(answer) == {"id": 1, "status": "Queued", "message": "Job successfully uploaded"}
    assert answer.headers["location"] == "/v1/jobs/1"
    assert await stored(server, answer) == {"run.sh": b"ls -b > listing.txt", "sub/in.pdb": b"ATOM"}
    (directory,) = (server.storage.root / "jobs").glob("*/*")
    assert (directory / "job_id").read_text() == "1\n"
    assert b'"user_id": 1' in (directory / "job.json").read_bytes()


async def test_an_upload_without_any_file_is_a_job(server: Server) -> None:
    answer = await server.post()
    assert answer.status_code == 201
    assert await stored(server, answer) == {}


async def test_a_name_that_comes_only_as_an_extended_parameter_is_a_file(server: Server) -> None:
    answer = await server.post(RUN, "name=\"file\"; filename*=UTF-8''%E2%82%AC%20rates.pdb|ATOM")
    assert answer.status_code == 201
    assert (await stored(server, answer))["€ rates.pdb"] == b"ATOM"


@pytest.mark.parametrize("value", ["UTF-8''%FF%FE", "klingon''x"])
async def test_a_malformed_extended_name_is_refused(server: Server, value: str) -> None:
    answer = await server.post(RUN, f'name="file"; filename*={value}|ATOM')
    await refused(server, answer, 400, "filename*")


@pytest.mark.parametrize("wire", ["a%22b.pdb", 'a\\"b.pdb'])
async def test_a_quote_in_a_name_is_the_same_however_the_client_writes_it(server: Server, wire: str) -> None:
    answer = await server.post(RUN, f'name="file"; filename="{wire}"|1')
    assert answer.status_code == 201
    assert (await stored(server, answer))['a"b.pdb'] == b"1"


async def test_a_backslash_in_a_name_stays_or_is_refused_by_name(server: Server) -> None:
    answer = await server.post(RUN, 'name="file"; filename="a\\b.pdb"|1')
    if answer.status_code == 201:
        assert (await stored(server, answer))["a\\b.pdb"] == b"1"
    else:
        await refused(server, answer, 400, "\\")


async def test_a_name_that_occurs_twice_is_refused(server: Server) -> None:
    for parts, culprit in (
        (['name="file"; filename="in.pdb"|first', 'name="file"; filename="in.pdb"|second'], "in.pdb"),
        (['name="file"; filename="in.pdb"|x', 'name="file"; filename="./in.pdb"|y'], "in.pdb"),
        (['name="file"; filename="d//in.pdb"|z', 'name="file"; filename="d/in.pdb"|w'], "d/in.pdb"),
        (['name="file"; filename="d"|x', 'name="file"; filename="d/in.pdb"|y'], "d"),
        (['name="user_id"|2'], "user_id"),
    ):
        await refused(server, await server.post(RUN, *parts), 400, culprit)


async def test_a_user_id_that_fits_64_bits_is_taken(server: Server) -> None:
    for user in ("0", "-1", "1", "9223372036854775807", "-9223372036854775808"):
        answer = await server.post(RUN, user=user)
        assert answer.status_code == 201, user
        job = await server.ledger.get(answer.json()["id"])
        assert job is not None and job.user_id == int(user)


async def test_any_other_user_id_is_refused(server: Server) -> None:
    for user in (
        *("1_0", " 7", "7 ", "+5", "٧", "７", "007", "-0", "-", "1.0", "1e3", "0x1", ""),
        *("9223372036854775808", "-9223372036854775809", "9" * 20, "9" * 1000, "9" * 5000),
    ):
        await refused(server, await server.post(RUN, user=user), 400, "user_id")


@pytest.mark.parametrize("missing", ["user_id", "service"])
async def test_a_missing_field_is_named(server: Server, missing: str) -> None:
    fields = {"user_id": "1", "service": "example"}
    del fields[missing]
    body, content_type = form(RUN, *(f'name="{name}"|{value}' for name, value in fields.items()))
    answer = await server.client.post("/upload", content=body, headers={"Content-Type": content_type})
    await refused(server, answer, 400, missing)


async def test_an_unknown_service_is_refused_with_those_that_are_known(server: Server) -> None:
    await refused(server, await server.post(RUN, service="nope"), 400, "nope", "example")


async def test_a_name_that_cannot_be_a_file_is_refused(server: Server) -> None:
    for name in ("a\x00b", "a\x01b", "a\x7fb", ".", "d/", "x" * 300):
        answer = await server.post(RUN, f'name="file"; filename="{name}"|1')
        await refused(server, answer, 400)


async def test_of_a_full_path_the_base_name_is_kept(server: Server) -> None:
    for name in ("/etc/passwd", "../passwd", "x/../passwd", "C:\\dir\\passwd"):
        answer = await server.post(RUN, f'name="file"; filename="{name}"|1')
        assert answer.status_code == 201, name
        assert (await stored(server, answer))["passwd"] == b"1", name


async def test_a_form_field_left_unfilled_is_no_file(server: Server) -> None:
    answer = await server.post(RUN, 'name="file"; filename=""|')
    assert answer.status_code == 201
    assert list(await stored(server, answer)) == ["run.sh"]


async def test_what_is_no_multipart_is_refused(server: Server) -> None:
    for content_type, body in (
        ("", b"x"),
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no boundary here"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=BbB", form(RUN)[0][:-9]),
        (
            "multipart/form-data; boundary=BbB",
            b"--BbB\r\nContent-Disposition: nonsense\r\n\r\nx\r\n--BbB--\r\n",
        ),
    ):
        answer = await server.client.post("/upload", content=body, headers={"Content-Type": content_type})
        await refused(server, answer, 400)


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


@pytest.mark.parametrize("length_told", [True, False])
async def test_a_body_over_the_limit_is_refused_however_it_is_sent(server: Server, length_told: bool) -> None:
    body, content_type = form(RUN, b'name="file"; filename="two.bin"|' + bytes(2 << 20))
    content = body if length_told else chunked(body)
    answer = await server.client.post("/upload", content=content, headers={"Content-Type": content_type})
    await refused(server, answer, 413, "1048576", "(setting upload_limit)")


async def test_an_upload_in_chunks_is_taken(server: Server) -> None:
    body, content_type = form(RUN, 'name="user_id"|1', 'name="service"|example')
    answer = await server.client.post(
        "/upload", content=chunked(body), headers={"Content-Type": content_type}
    )
    assert answer.status_code == 201
    assert await stored(server, answer) == {"run.sh": b"ls -b > listing.txt"}


async def test_bytes_arrive_as_they_were_whatever_the_chunks(server: Server) -> None:
    data = b"\r\n--Bb\r\n--BbX\r" * 3000 + b"\r"
    body, content_type = form(
        b'name="file"; filename="odd"|' + data, 'name="user_id"|1', 'name="service"|example'
    )

    async def ragged() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 997):
            yield body[start : start + 997]

    answer = await server.client.post("/upload", content=ragged(), headers={"Content-Type": content_type})
    assert answer.status_code == 201
    assert await stored(server, answer) == {"odd": data}


async def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(server: Server) -> None:
    body, content_type = form(b'name="file"; filename="big"|' + bytes(600_000), 'name="user_id"|1')
    port = int(server.url.rpartition(":")[2])
    fields = f"Host: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    head = f"POST /upload HTTP/1.1\r\n{fields}\r\n\r\n"
    appeared, left = trio.Event(), trio.Event()
    receive = server.storage.receive

    def watched(expected: int = 0) -> object:
        return _Watched(receive(expected), appeared, left)

    server.storage.receive = watched  # type: ignore[method-assign, assignment]
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(head.encode() + body[:500_000])
    with trio.fail_after(60):
        await appeared.wait()
        await stream.aclose()
        await left.wait()
    assert await server.nothing_left()


class _Watched:
    """An upload's context that tells when it is entered and when it has been left."""

    def __init__(self, inner: object, entered: trio.Event, left: trio.Event) -> None:
        self._inner, self._entered, self._left = inner, entered, left

    async def __aenter__(self) -> object:
        upload = await self._inner.__aenter__()  # type: ignore[attr-defined]
        self._entered.set()
        return upload

    async def __aexit__(self, *error: object) -> object:
        try:
            return await self._inner.__aexit__(*error)  # type: ignore[attr-defined]  # noqa: ASYNC102  # it shields itself, with a timeout
        finally:
            self._left.set()


async def test_when_the_ledger_fails_nothing_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def insert(*given: object) -> None:
        raise LedgerError("database is locked")

    monkeypatch.setattr(server.ledger, "insert", insert)
    answer = await server.post(RUN)
    await refused(server, answer, 503, "database is locked")
    assert answer.headers["retry-after"] == "1"


async def test_the_same_idempotency_key_and_content_is_one_job(server: Server) -> None:
    body, content_type = form(RUN, 'name="user_id"|1', 'name="service"|example')
    headers = {"Content-Type": content_type, "Idempotency-Key": "abc-1"}
    answers = [await server.client.post("/upload", content=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert len(server.directories()) == 1
    other, _ = form(RUN + "x", 'name="user_id"|1', 'name="service"|example')
    answer = await server.client.post("/upload", content=other, headers=headers)
    assert answer.status_code == 422
    assert status_body(answer)["id"] == 0
    assert len(server.directories()) == 1


async def test_two_users_may_choose_the_same_key(server: Server) -> None:
    ids = []
    for user in ("1", "2", "1", "2"):
        body, content_type = form(RUN, f'name="user_id"|{user}', 'name="service"|example')
        headers = {"Content-Type": content_type, "Idempotency-Key": "1"}
        answer = await server.client.post("/upload", content=body, headers=headers)
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    assert ids == [1, 2, 1, 2]


async def test_a_key_under_way_is_told_with_when_to_ask_again_and_stops_no_other_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, write = trio.Event(), IncomingFile.write

    async def noticed(file: IncomingFile, data: bytes) -> None:
        taken.set()
        await write(file, data)

    monkeypatch.setattr(IncomingFile, "write", noticed)
    fields = ['name="user_id"|1', 'name="service"|example']
    begun = form(*fields, b'name="file"; filename="big"|' + bytes(2 << 20))[0][:-20]
    kind = "multipart/form-data; boundary=BbB\r\nIdempotency-Key: 1"
    async with api_server(tmp_path, upload_limit=4 << 20) as server, trio.open_nursery() as nursery:
        nursery.start_soon(answer_to_beginning, server.url, "/upload", kind, begun)
        with trio.fail_after(60):
            await taken.wait()
        body, content_type = form(*fields, RUN)
        headers = {"Content-Type": content_type, "Idempotency-Key": "1"}
        answer = await server.client.post("/upload", content=body, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (409, "1"), answer.text
        assert "under way" in status_body(answer)["message"]
        body, _ = form('name="user_id"|2', fields[1], RUN)
        answer = await server.client.post("/upload", content=body, headers=headers)
        assert answer.status_code == 201
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("route", ["/upload", "/v1/jobs/1/rerun"])
async def test_two_idempotency_keys_are_refused(server: Server, route: str) -> None:
    await server.upload(a=b"x")
    body, content_type = form(RUN, 'name="user_id"|1', 'name="service"|example')
    headers = [("Content-Type", content_type), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await server.client.post(route, content=body, headers=headers)
    assert answer.status_code == 400 and "2 were sent" in answer.text
    assert await server.ledger.max_id() == 1


async def test_a_repeated_upload_is_the_same_job_when_the_services_limit_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, content_type = form(RUN, 'name="user_id"|1', 'name="service"|example')
    headers = {"Content-Type": content_type, "Idempotency-Key": "abc-1"}
    answers = []
    for limit in (0.0, 90.0):
        limits = partial(ServiceLimits, "example", max_runtime=limit)
        monkeypatch.setattr(
            "support.processes.api_server.ServiceLimits", lambda *_, limits=limits, **__: limits()
        )
        async with api_server(tmp_path) as server:
            answers.append(await server.client.post("/upload", content=body, headers=headers))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_what_was_sent_in_other_fields_is_another_upload(server: Server) -> None:
    headers = {"Idempotency-Key": "abc-1"}
    fields = ('name="user_id"|1', 'name="service"|example')
    for extra, status in (('name="name"|a', 201), ('name="tags"|a', 422), ('name="name"|a', 201)):
        body, headers["Content-Type"] = form(RUN, *fields, extra)
        answer = await server.client.post("/upload", content=body, headers=headers)
        assert answer.status_code == status


async def test_many_uploads_at_once_are_all_stored(server: Server) -> None:
    ids: list[int] = []

    async def one() -> None:
        ids.append((await server.post(RUN)).json()["id"])

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)
    assert sorted(ids) == list(range(1, 31))
    assert len(server.directories()) == 30


@pytest.mark.parametrize("step", ["write", "sync_directory"])
async def test_a_full_disk_is_told_and_nothing_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Disk, step, full)
    await refused(server, await server.post(RUN), 507, "no space left")


async def test_a_full_disk_under_the_ledger_is_told_and_nothing_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def insert(*given: object) -> None:
        raise LedgerFull("the ledger's disk is full")

    monkeypatch.setattr(server.ledger, "insert", insert)
    await refused(server, await server.post(RUN), 507, "full")


async def test_a_slow_disk_slows_the_client_and_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = trio.Event()
    write = IncomingFile.write

    async def slow(file: IncomingFile, data: bytes) -> None:
        await stuck.wait()
        await write(file, data)

    monkeypatch.setattr(IncomingFile, "write", slow)
    body, content_type = form(
        b'name="file"; filename="big"|' + bytes(48 << 20), 'name="user_id"|1', 'name="service"|example'
    )
    sent = 0

    async def watched() -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, len(body), 1 << 18):
            yield body[start : start + (1 << 18)]
            sent = start

    async with api_server(tmp_path / "slow", upload_limit=64 << 20) as server, trio.open_nursery() as nursery:

        async def upload() -> None:
            headers = {"Content-Type": content_type, "Content-Length": str(len(body))}
            answer = await server.client.post("/upload", content=watched(), headers=headers)
            assert answer.status_code == 201
            nursery.cancel_scope.cancel()

        nursery.start_soon(upload)
        # Nothing tells that bytes have stopped moving but that none move for a while.
        before = -1
        while before != sent:
            before = sent
            await trio.sleep(0.3)
        assert sent < 24 << 20, "the server read on although nothing was written"
        stuck.set()
        await trio.sleep_forever()


async def test_clients_that_hang_up_at_any_moment_leave_no_half_of_a_job(tmp_path: Path) -> None:
    rng = random.Random(20)
    body, content_type = form(
        b'name="file"; filename="big"|' + bytes(100_000), RUN, 'name="user_id"|1', 'name="service"|example'
    )
    fields = f"Host: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    whole = f"POST /upload HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body
    async with api_server(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])

        async def hang_up() -> None:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            # Half of them have sent all of it, and leave before, while or after it is committed.
            await stream.send_all(whole[: rng.choice((len(whole), rng.randrange(len(whole))))])
            for _ in range(rng.randrange(40)):
                await trio.lowlevel.checkpoint()
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(hang_up)
            for _ in range(20):
                nursery.start_soon(server.post, RUN)
        incoming = server.storage.root / "incoming"
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        rows = {job.storage_key for job in await list_jobs(ledger, limit=500)}
    assert len(rows) >= 20
    assert {path.name for path in (incoming.parent / "jobs").glob("*/*")} == rows
    assert not list(incoming.iterdir())


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("0.5", 0.5), (None, 0.0)])
async def test_a_job_may_say_how_long_it_may_run(server: Server, text: str | None, seconds: float) -> None:
    answer = await server.post(RUN, *([] if text is None else [f'name="max_runtime"|{text}']))
    assert answer.status_code == 201
    job = await server.ledger.get(1)
    assert job is not None and job.max_runtime == seconds


async def test_any_other_max_runtime_is_refused(server: Server) -> None:
    for text in ("0", "-1", "1e3", "", "nan", "1_0", " 5", "٧"):
        await refused(server, await server.post(RUN, f'name="max_runtime"|{text}'), 400, "max_runtime")


async def test_a_max_runtime_above_the_services_is_refused(tmp_path: Path) -> None:
    async with api_server(tmp_path, services=("short",)) as server:
        answer = await server.post(RUN, 'name="max_runtime"|61', service="short")
        await refused(server, answer, 400, "max_runtime", "at most 60")
        answer = await server.post(RUN, service="short")
        assert answer.status_code == 201
        job = await server.ledger.get(1)
        assert job is not None and job.max_runtime == 60.0


async def test_a_job_has_the_limits_of_its_service_unless_it_asks_for_less(tmp_path: Path) -> None:
    asked = ('name="memory"|512M', 'name="cpu_time"|0.5', 'name="disk"|1.5G', 'name="open_files"|64')
    async with api_server(tmp_path, services=("short", "free")) as server:
        assert (await server.post(RUN, service="short")).status_code == 201
        assert (await server.post(RUN, *asked, service="short")).status_code == 201
        assert (await server.post(RUN, *asked, service="free")).status_code == 201
        assert (await server.post(RUN, service="free")).status_code == 201
        assert (await server.client.post("/v1/jobs/2/rerun")).status_code == 201
        shown = [(await server.client.get(f"/v1/jobs/{number}")).json()["limits"] for number in range(1, 6)]
        of_services = {
            one["name"]: one["limits"] for one in (await server.client.get("/v1/services")).json()["items"]
        }
    own = {"memory_bytes": 512 << 20, "cpu_seconds": 0.5, "disk_bytes": 3 << 29, "open_files": 64}
    service = {"memory_bytes": 1 << 30, "processes": 100}
    assert shown == [service, service | own, own, {}, service | own]
    assert of_services == {"short": service, "free": {}}


async def test_any_other_limit_is_refused(server: Server) -> None:
    for name, texts in {
        "memory": ("0", "-1", "lots", "4 GB", "4095K", "", "1G5"),
        "cpu_time": ("0", "1e3", "nan", "5M"),
        "processes": ("1", "1.5", "2K", "٧"),
        "open_files": ("7",),
        "file_size": ("0", "63K", "0.5", "99999999999999999999"),
        "disk": ("0", "-4G", "2P"),
    }.items():
        for text in texts:
            answer = await server.post(RUN, f'name="{name}"|{text}')
            await refused(server, answer, 400, f"{name} '{text}'", "expected")


@pytest.mark.parametrize(("field", "most"), [("memory|1025M", "1 GiB"), ("processes|101", "100")])
async def test_a_limit_above_the_services_is_refused(tmp_path: Path, field: str, most: str) -> None:
    name, _, text = field.partition("|")
    async with api_server(tmp_path, services=("short",)) as server:
        answer = await server.post(RUN, f'name="{name}"|{text}', service="short")
        await refused(
            server, answer, 400, f"{name} '{text}'", f"at most {most} are allowed for service short"
        )


@pytest.mark.parametrize(
    ("text", "kept"), [("gpu", "gpu"), (" ssd,gpu = a100 ", "gpu=a100,ssd"), ("", ""), (None, "")]
)
async def test_a_job_may_require_labels_of_its_node(server: Server, text: str | None, kept: str) -> None:
    answer = await server.post(RUN, *([] if text is None else [f'name="requires"|{text}']))
    assert answer.status_code == 201
    job = await server.ledger.get(1)
    assert job is not None and job.requires == kept
    assert (await server.client.get("/v1/jobs/1")).json()["requires"] == kept


async def test_a_priority_is_within_what_the_service_allows_and_a_rerun_has_it(tmp_path: Path) -> None:
    async with api_server(tmp_path, services=("short", "example")) as server:
        assert (await server.post(RUN, 'name="priority"|5', service="short")).status_code == 201
        assert (await server.post(RUN, 'name="priority"|0')).status_code == 201
        again = (await server.client.post("/v1/jobs/1/rerun")).json()
        first = (await server.client.get("/v1/jobs/1")).json()
        assert (first["priority"], again["priority"]) == (5, 5)
        assert (await server.client.get("/v1/services/short")).json()["max_priority"] == 5
        lines = {one.service: one.orders for one in (await server.ledger.live(queued=True)).queued}
        assert [job_of(order) for order in lines["short"]] == [1, 3] and [*lines["example"]] == [2]


async def test_what_is_asked_of_a_cluster_is_within_what_the_service_lists_and_a_rerun_has_it(
    tmp_path: Path,
) -> None:
    asked = ('name="partition"|long', 'name="cpus"|16', 'name="gpus"|a100:2')
    told = {"partition": "long", "account": None, "qos": None, "cpus": 16, "gpus": "a100:2"}
    async with api_server(tmp_path, services=("short", "example")) as server:
        assert (await server.post(RUN, *asked, service="short")).status_code == 201
        assert (await server.post(RUN, service="short")).status_code == 201
        again = (await server.client.post("/v1/jobs/1/rerun")).json()
        jobs = [(await server.client.get(f"/v1/jobs/{number}")).json() for number in (1, 2)]
        assert [one["batch_request"] for one in (*jobs, again)] == [told, None, told]
        service = (await server.client.get("/v1/services/short")).json()
        assert service["batch_allowed"] == {
            "partitions": ["short", "long"],
            "accounts": [],
            "qos": [],
            "max_cpus": 16,
            "max_gpus": ["a100:4"],
        }


async def test_what_a_service_allows_nothing_of_is_a_field_like_any_that_means_nothing(
    server: Server,
) -> None:
    """A portal of 2.x may use the word for something of its own."""
    words = ('name="partition"|-p=x', 'name="account"|', 'name="priority"|urgent', 'name="colour"|red')
    answer = await server.post(RUN, *words)
    assert answer.status_code == 201
    job = (await server.client.get("/v1/jobs/1")).json()
    assert sorted(job["ignored"]) == ["account", "colour", "partition", "priority"]
    assert (job["priority"], job["batch_request"]) == (0, None)


async def test_a_job_keeps_the_id_of_the_request_that_handed_it_in(server: Server) -> None:
    """As a proxy gives it, or a name of the server's own; a rerun has its own."""
    server.client.headers["X-Request-Id"] = "r-1"
    await server.post(RUN)
    server.client.headers["X-Request-Id"] = "r-2"
    assert (await server.client.post("/v1/jobs/1/rerun")).status_code == 201
    del server.client.headers["X-Request-Id"]
    await server.post(RUN)
    jobs = [await server.ledger.get(job_id) for job_id in (1, 2, 3)]
    first, again, other = [job.request_id for job in jobs if job is not None]
    assert (first, again) == ("r-1", "r-2") and other not in ("", "r-1", "r-2")


async def test_what_is_no_label_is_refused(server: Server) -> None:
    for text in ("a b", "=1", "gpu=1,gpu=2", "gpu,"):
        await refused(server, await server.post(RUN, f'name="requires"|{text}'), 400, "requires")


async def test_a_refusal_is_there_before_the_rest_has_come(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"{head}Content-Length: {400 << 20}\r\n\r\n--B\r\n".encode())
        said = b""
        with trio.fail_after(60):
            while not said.endswith(b"}"):
                said += await stream.receive_some()
    assert said.startswith(b"HTTP/1.1 413")
    assert await server.nothing_left()


FIRST = ('name="user_id"|1', 'name="service"|short')
BIG = b'name="file"; filename="big"|' + bytes(100_000)


REFUSED: Sequence[tuple[Sequence[str | bytes], str]] = (
    (['name="service"|nope'], "service 'nope'"),
    (['name="user_id"|x'], "user_id 'x'"),
    (['name="user_id"|1', 'name="user_id"|1'], "user_id"),
    ([*FIRST, 'name="max_runtime"|soon'], "max_runtime 'soon'"),
    ([*FIRST, 'name="max_runtime"|61'], "at most 60"),
    (['name="max_runtime"|61', *FIRST], "at most 60"),
    ([*FIRST, 'name="memory"|2G'], "at most 1 GiB"),
    (['name="memory"|2G', *FIRST], "at most 1 GiB"),
    (['name="disk"|much'], "disk 'much'"),
    ([*FIRST, 'name="priority"|6'], "priority '6': a whole number from 0 to 5"),
    (['name="priority"|6', *FIRST], "priority '6': a whole number from 0 to 5"),
    ([*FIRST, 'name="priority"|-1'], "priority '-1': a whole number from 0 to 5"),
    ([*FIRST, 'name="partition"|gpu'], "partition 'gpu': allowed for service short: short, long"),
    (['name="partition"|gpu', *FIRST], "partition 'gpu': allowed for service short: short, long"),
    ([*FIRST, 'name="partition"|-p=x'], "partition '-p=x': the name of a partition was expected"),
    ([*FIRST, 'name="account"|'], "account ''"),
    ([*FIRST, 'name="account"|bio'], "account 'bio': allowed for service short: none"),
    ([*FIRST, 'name="cpus"|17'], "cpus '17': allowed for service short: at most 16"),
    (['name="cpus"|1.5', *FIRST], "cpus '1.5'"),
    ([*FIRST, 'name="gpus"|a100:5'], "gpus 'a100:5': allowed for service short: at most a100:4"),
    ([*FIRST, 'name="gpus"|1'], "gpus '1'"),
    ([*FIRST, 'name="requires"|=='], "requires"),
    ([*FIRST, 'name="name"|' + "x" * 300], "at most 200"),
    ([*FIRST, 'name="tags"|a b'], "tags 'a b'"),
    ([*FIRST, *(f'name="tags"|{n}' for n in range(33))], "at most 32"),
    ([*FIRST, 'name="callback_url"|http://nobody.example/'], "callback_url"),
    ([*FIRST, 'name="rerun_of"|7'], "rerun_of 7: there is no job 7"),
    (['name="rerun_of"|0x1', *FIRST], "rerun_of '0x1': the number of an earlier job"),
    ([*FIRST, RUN, RUN], "run.sh"),
    ([*FIRST, f'name="file"; filename="{"x" * 256}"|'], "255 bytes"),
    ([RUN, BIG, 'name="user_id"|x', *FIRST], "user_id 'x'"),
)


async def test_a_field_is_refused_as_soon_as_it_has_come(tmp_path: Path) -> None:
    async with api_server(tmp_path, services=("example", "short")) as server:
        for parts, culprit in REFUSED:
            body, content_type = form(*parts, BIG)
            sent = body[: -len(b"\r\n--BbB--\r\n")]
            status, said = await answer_to_beginning(server.url, "/upload", content_type, sent)
            assert status == 400 and culprit.encode() in said, (culprit, said)
            assert await server.nothing_left()


async def test_a_field_is_refused_by_the_byte_that_makes_it_too_long(server: Server) -> None:
    begun = form('name="user_id"|' + "1" * 5000)[0][: -len(b"\r\n--BbB--\r\n")]
    kind = "multipart/form-data; boundary=BbB"
    status, said = await answer_to_beginning(server.url, "/upload", kind, begun)
    assert status == 400 and b"longer than 4096 bytes" in said
    assert await server.nothing_left()


async def test_the_part_too_many_is_refused_when_it_begins(server: Server) -> None:
    sent = form(*['name="more"|x'] * 10_001)[0][: -len(b"x\r\n--BbB--\r\n")]
    kind = "multipart/form-data; boundary=BbB"
    status, said = await answer_to_beginning(server.url, "/upload", kind, sent)
    assert status == 400 and b"more than 10000 parts" in said
    assert await server.nothing_left()


async def test_a_limit_passed_in_chunks_and_a_full_disk_are_told_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = form(b'name="file"; filename="two.bin"|' + bytes(2 << 20))[0][:-20]
    kind = "multipart/form-data; boundary=BbB"
    status, said = await answer_to_beginning(server.url, "/upload", kind, sent)
    assert status == 413 and b"1048576 bytes (setting upload_limit)" in said

    def full(disk: Disk, fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Disk, "write", full)
    sent = form('name="file"; filename="a"|1', 'name="file"; filename="b"|2')[0][:-20]
    status, said = await answer_to_beginning(server.url, "/upload", kind, sent)
    assert status == 507 and b"no space left" in said
    assert await server.nothing_left()


async def test_of_an_order_of_another_sites_page_no_more_is_read_before_it_is_refused(server: Server) -> None:
    kind = "multipart/form-data; boundary=BbB\r\nOrigin: https://evil.example"
    status, said = await answer_to_beginning(server.url, "/upload", kind, b"--BbB\r\n")
    assert status == 403 and b"evil.example" in said
    assert await server.nothing_left()


async def test_fields_that_mean_nothing_are_told_with_the_answer_and_with_the_job(server: Server) -> None:
    answer = await server.post(
        RUN, 'name="max_runtim"|5', 'name="x"|1', 'name="x"|2', b'name="big"|' + bytes(9999)
    )
    assert answer.status_code == 201
    told = answer.json()
    assert told.pop("ignored") == ["max_runtim", "x", "big"]
    assert set(told) == {"id", "status", "message"}
    body = (await server.client.get("/v1/jobs/1")).json()
    assert body["ignored"] == ["max_runtim", "x", "big"]
    again = (await server.client.post("/v1/jobs/1/rerun")).json()
    assert again["ignored"] == []
    assert "ignored" not in (await server.post(RUN)).json()
    many = await server.post(*(f'name="f{n}"|' for n in range(100)))
    assert len(many.json()["ignored"]) == 32


MIXED = (
    'name="file"\r\nContent-Type: multipart/mixed; boundary=XX|--XX\r\nContent-Disposition: attachment; '
    'filename="a.pdb"\r\n\r\nATOM\r\n--XX--'
)


@pytest.mark.parametrize(
    ("part", "culprits"),
    [
        (MIXED, ("multipart/mixed", "-F file=@a -F file=@b")),
        ('name="pdb"\r\nContent-Type: chemical/x-pdb|ATOM', ("pdb", "chemical/x-pdb", "filename")),
        ('name="file"\r\nContent-Type: application/octet-stream|ATOM', ("file", "octet-stream")),
    ],
)
async def test_a_file_that_would_vanish_is_refused_with_the_way_out(
    server: Server, part: str, culprits: tuple[str, ...]
) -> None:
    await refused(server, await server.post(RUN, part), 400, *culprits)


async def test_a_text_field_may_have_a_type_and_a_multipart_file_is_a_file(server: Server) -> None:
    typed = "\r\nContent-Type: text/plain; charset=UTF-8"
    answer = await server.post(
        f'name="name"{typed}|one',
        f'name="note"{typed}|x',
        'name="max_runtime"\r\nContent-Type: application/json|5',
        'name="file"; filename="page.mht"\r\nContent-Type: multipart/related; boundary=x|--x',
    )
    assert answer.json()["ignored"] == ["note"]
    assert await stored(server, answer) == {"page.mht": b"--x"}
    body = (await server.client.get("/v1/jobs/1")).json()
    assert (body["name"], body["max_runtime_seconds"]) == ("one", 5)
