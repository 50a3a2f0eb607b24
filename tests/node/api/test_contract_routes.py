"""The published contract of a node, over real HTTP."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import httpx
import pytest
import trio
from support.memory.fake_executor import PretendedRun, end
from support.peers.stalled_senders import answer_to_beginning
from support.processes.nodes_in_process import NodeInProcess, node_in_process

RUN = ("file", ("run.sh", b"true\n"))


async def submitted(node: NodeInProcess, *files: object) -> dict[str, object]:
    answer = await node.client.post("/submit", files=list(files) or [RUN])  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


async def run_of(node: NodeInProcess, payload: dict[str, object]) -> PretendedRun:
    return await node.executor.run_of(Path(str(payload["loc"])).parent.name)


async def test_ping_health_and_load(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        assert (await node.client.get("/")).json() == {"message": "pong"}
        assert (await node.client.get("/health")).json() == {"status": "ok", "database": "ok"}
        load = await node.client.get("/load")
        assert isinstance(load.json(), float | int) and 0 <= load.json() <= 100


async def test_a_submit_is_answered_with_a_whole_payload(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        payload = await submitted(node)
        where = Path(str(payload.pop("loc")))
        assert payload == {"id": 1, "input": {}, "status": "Prepared", "pid": 0, "killed": False}
        assert (where / "run.sh").read_bytes() == b"true\n"
        assert where.parent.stat().st_mode & 0o777 == 0o700


async def test_a_part_named_by_its_path_keeps_it_and_any_other_is_named_by_its_file(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        payload = await submitted(
            node, RUN, ("sub/in.pdb", ("in.pdb", b"1")), ("whatever", ("/home/me/b.pdb", b"2"))
        )
        where = Path(str(payload["loc"]))
        assert (where / "sub/in.pdb").read_bytes() == b"1" and (where / "b.pdb").read_bytes() == b"2"


async def test_a_running_payload_is_told_and_a_completed_one_is_a_zip(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await run_of(node, await submitted(node))
        run.print("hello\n")
        told = (await node.client.get("/retrieve/1")).json()
        assert told["id"] == 1 and told["status"] in ("Prepared", "Running")
        partial = await node.client.get("/retrieve_partial/1")
        assert partial.headers["content-type"] == "application/zip"
        assert zipfile.ZipFile(io.BytesIO(partial.content)).read("stdout.log") == b"hello\n"
        run.finish()
        await node.until(run.spec.key, "Completed")
        zipped = zipfile.ZipFile(io.BytesIO((await node.client.get("/retrieve/1")).content))
        assert zipped.namelist() == ["run.sh", "stdout.log", "stderr.log"]


async def test_a_failed_payload_is_told_and_its_files_are_there(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await run_of(node, await submitted(node))
        run.finish(end(3))
        await node.until(run.spec.key, "Failed")
        assert (await node.client.get("/retrieve/1")).json()["status"] == "Failed"
        assert (await node.client.get("/retrieve_partial/1")).status_code == 200


async def test_without_run_sh_it_is_prepared_and_ends_invalid(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        payload = await submitted(node, ("file", ("in.pdb", b"x")))
        assert payload["status"] == "Prepared"
        view = await node.until(Path(str(payload["loc"])).parent.name, "Invalid")
        assert view["end"]["message"] == "run.sh not found"


async def test_kill_waits_until_it_is_killed_and_may_be_repeated(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await run_of(node, await submitted(node))
        for _ in range(2):
            killed = await node.client.post("/kill/1")
            assert (killed.status_code, killed.content) == (200, b"")
            told = (await node.client.get("/retrieve/1")).json()
            assert told["status"] == "Killed" and told["killed"] is True


async def test_kill_of_what_has_not_started_yet(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, slots=1) as node:
        await run_of(node, await submitted(node))
        await submitted(node)
        assert (await node.client.post("/kill/2")).status_code == 200
        assert (await node.client.get("/retrieve/2")).json()["status"] == "Killed"


async def test_a_kill_that_does_not_succeed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api.contract.KILL_PATIENCE", 0.1)
    async with node_in_process(tmp_path, grace=0.0) as node:
        run = await run_of(node, await submitted(node))
        run.stubborn = True
        answer = await node.client.post("/kill/1")
        assert answer.status_code == 500 and "could not be killed" in answer.json()["message"]


async def test_what_is_no_id_is_refused_by_name(tmp_path: Path) -> None:
    numbers = ["0", "-1", "+1", "1_0", "007", "4294967296", "x", "٧", "1.0", "%20 1", "9" * 5000]
    async with node_in_process(tmp_path) as node:
        for method, path in (("GET", "/retrieve"), ("GET", "/retrieve_partial"), ("POST", "/kill")):
            for number in numbers:
                answer = await node.client.request(method, f"{path}/{number}")
                assert answer.status_code == 400, number
                assert answer.json()["status"] == "Unknown" and "is no id" in answer.json()["message"]


async def test_every_other_refusal_is_json_too(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        for method, path, status in (
            ("GET", "/retrieve/5", 404),
            ("POST", "/kill/5", 404),
            ("GET", "/retrieve_partial/4294967295", 404),
            ("GET", "/nothing", 404),
            ("GET", "//retrieve//5", 404),
            ("GET", "/submit", 405),
            ("POST", "/submit", 400),
        ):
            answer = await node.client.request(method, path)
            assert (answer.status_code, set(answer.json())) == (
                status,
                {"id", "status", "message", "code"},
            ), path


async def test_a_refused_submit_names_the_culprit_and_leaves_nothing(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, upload_limit=2000) as node:
        twice = [("file", ("in.pdb", b"1")), ("file", ("in.pdb", b"2"))]
        answer = await node.client.post("/submit", files=twice)
        assert answer.status_code == 400 and "in.pdb" in answer.json()["message"]
        answer = await node.client.post("/submit", files=[("file", ("big", b"x" * 3000))])
        assert answer.status_code == 413

        async def chunked() -> object:
            yield b"--B\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"
            for _ in range(30):
                yield b"x" * 100

        kind = {"Content-Type": "multipart/form-data; boundary=B"}
        answer = await node.client.post("/submit", content=chunked(), headers=kind)  # type: ignore[arg-type]
        assert answer.status_code == 413
        answer = await node.client.post("/submit", content=b"--B\r\nnonsense", headers=kind)
        assert answer.status_code == 400
        assert list((tmp_path / "payloads").iterdir()) == []
        assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_client_that_hangs_up_leaves_nothing(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        host, port = node.url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(
            b"POST /submit HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=B\r\n\r\n"
            b"--B\r\nContent-Disposition: form-data; name=f; filename=run.sh\r\n\r\ntrue"
        )
        await stream.aclose()
        assert (await node.client.get("/")).status_code == 200
    assert list((tmp_path / "payloads").iterdir()) == []
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_ids_go_on_over_a_restart_and_results_stay(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await run_of(node, await submitted(node))
        run.finish()
        await node.until(run.spec.key, "Completed")
    async with node_in_process(tmp_path) as node:
        assert (await submitted(node))["id"] != 1
        answer = await node.client.get("/retrieve/1")
        assert isinstance(answer, httpx.Response) and answer.headers["content-type"] == "application/zip"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/submit"),
        ("POST", "/kill/1"),
        ("POST", "/v1/attempts"),
        ("POST", "/v1/cancel"),
        ("GET", "/v1/events"),
        ("GET", "/retrieve/1"),
    ],
)
async def test_a_web_page_has_no_access(
    tmp_path: Path, method: str, path: str, headers: dict[str, str]
) -> None:
    async with node_in_process(tmp_path) as node:
        answer = await node.client.request(method, path, headers=headers, files=[RUN])
        assert answer.status_code == 403
        assert "web pages" in answer.text
        assert (await node.client.get("/retrieve/1")).status_code == 404  # there is no payload


@pytest.mark.parametrize(
    ("part", "culprit"),
    [
        ('name="run.sh"; filename="run.sh"', "run.sh"),
        (f'name="f"; filename="{"x" * 256}"', "255 bytes"),
        ('filename="x"', "no name"),
        ('name="a"\r\nContent-Transfer-Encoding: base64', "base64"),
        ('name="a"\r\nContent-Type: multipart/mixed; boundary=x', "multipart/mixed"),
        ('name="a"\r\nContent-Type: chemical/x-pdb', "without a file name"),
    ],
)
async def test_a_submit_is_refused_as_soon_as_what_is_wrong_has_come(
    tmp_path: Path, part: str, culprit: str
) -> None:
    async with node_in_process(tmp_path) as node:
        sent = b'--B\r\nContent-Disposition: form-data; name="run.sh"; filename="run.sh"\r\n\r\ntrue\r\n'
        sent += b"--B\r\nContent-Disposition: form-data; " + part.encode() + b"\r\n\r\n"
        kind = "multipart/form-data; boundary=B"
        status, said = await answer_to_beginning(str(node.client.base_url), "/submit", kind, sent)
        assert status == 400 and culprit.encode() in said, said
        assert list((tmp_path / "incoming").iterdir()) == []
