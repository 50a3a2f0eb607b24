"""The node's own protocol: attempts by their keys, over real HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from support.memory.fake_executor import end
from support.peers.stalled_senders import answer_to_beginning
from support.processes.nodes_in_process import KEY, OTHER, SCRIPT, NodeInProcess, node_in_process
from support.processes.processes import promised

from actors.wire.protocol.frames import FrameReader

THIRD = "c" * 32


async def collected(node: NodeInProcess, *keys: str) -> list[tuple[bytes, bytes]]:
    answer = await node.client.post("/v1/collect", json={"keys": list(keys)})
    assert answer.status_code == 200

    async def body() -> AsyncIterator[bytes]:
        yield answer.content

    return [frame async for frame in FrameReader(body())]


async def test_info_tells_who_the_node_is(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, slots=3) as node:
        info = (await node.client.get("/v1/info")).json()
        assert info["protocol"] == 1 and info["slots"] == 3 and info["executor"] == "pretended"
        first = info
    async with node_in_process(tmp_path) as node:
        info = (await node.client.get("/v1/info")).json()
        assert info["node_id"] == first["node_id"] and info["machine_boot"] == first["machine_boot"]
        assert info["incarnation"] != first["incarnation"] and info["slots"] is None


async def test_a_sent_attempt_is_accepted_runs_and_sees_who_it_is(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        answer = await node.submit({KEY: {**SCRIPT, "sub/in.pdb": b"ATOM"}})
        assert answer.status_code == 200
        (item,) = answer.json()["items"]
        assert item["result"] == "accepted" and item["payload"]["status"] == "Prepared"
        assert answer.json()["sequence"] >= 1 and answer.json()["incarnation"]
        run = await node.executor.run_of(KEY)
        environment = node.executor.environment(KEY)
        assert {name: environment[name] for name in environment if name.startswith("ORCHESTRATOR_")} == {
            "ORCHESTRATOR_JOB_ID": "7",
            "ORCHESTRATOR_ATTEMPT": "2",
            "ORCHESTRATOR_SERVICE": "haddock",
            "ORCHESTRATOR_USER_ID": "-1",
            "ORCHESTRATOR_PROGRESS": f"{tmp_path}/payloads/{KEY}/progress/progress",
        }
        assert (run.spec.work / "sub/in.pdb").read_bytes() == b"ATOM"


async def test_the_same_attempt_again_is_known_and_is_not_run_twice(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        run.finish(end(3))
        await node.until(KEY, "Failed")
        answer = await node.submit({KEY: {"run.sh": b"other"}})
        (item,) = answer.json()["items"]
        assert answer.status_code == 200 and item["result"] == "known"
        assert item["payload"]["end"]["message"] == "exit code 3"
        assert (run.spec.work / "run.sh").read_bytes() == SCRIPT["run.sh"]
        assert list((tmp_path / "incoming").iterdir()) == []


async def test_many_attempts_get_an_answer_each(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.client.post("/v1/cancel", json={"keys": [OTHER]})
        answer = await node.submit(
            {KEY: dict(SCRIPT), OTHER: dict(SCRIPT), THIRD: {**SCRIPT, "a": b"1", "a/b": b"2"}}
        )
        assert answer.status_code == 200
        items = {item["key"]: item for item in answer.json()["items"]}
        assert [items[key]["result"] for key in (KEY, OTHER, THIRD)] == [
            "accepted",
            "tombstoned",
            "malformed",
        ]
        assert "'a'" in items[THIRD]["reason"]
        assert [path.name for path in (tmp_path / "payloads").iterdir()] == [KEY]


async def test_an_attempt_alone_is_answered_by_the_status_too(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.client.post("/v1/release", json={"keys": [KEY]})
        assert (await node.submit({KEY: dict(SCRIPT)})).status_code == 410
        answer = await node.submit({OTHER: {"..": b""}})
        assert answer.status_code == 400 and answer.json()["items"][0]["result"] == "malformed"
        wrong = {"owner": "o", "attempts": [{"key": OTHER, "job": "7", "n": 1, "service": "x", "user": 1}]}
        answer = await node.submit({OTHER: dict(SCRIPT)}, form=wrong)
        assert answer.status_code == 400 and "job" in answer.json()["items"][0]["reason"]


async def test_a_node_keeps_which_request_handed_the_job_in(tmp_path: Path) -> None:
    one = {"key": KEY, "job": 7, "n": 1, "service": "x", "user": 1, "request_id": "r-1"}
    async with node_in_process(tmp_path) as node:
        for wrong in (7, None, "a\nb", "r" * 201):
            form = {"owner": "o", "attempts": [{**one, "request_id": wrong}]}
            answer = await node.submit({KEY: dict(SCRIPT)}, form=form)
            assert answer.status_code == 400 and "request_id" in answer.json()["items"][0]["reason"]
        answer = await node.submit({KEY: dict(SCRIPT)}, form={"owner": "o", "attempts": [one]})
        assert answer.status_code == 200
        record = json.loads((tmp_path / "payloads" / KEY / "record.json").read_text())
    assert record["request_id"] == "r-1"


@pytest.mark.parametrize(
    "form",
    [
        {"owner": "o", "attempts": []},
        {"owner": "", "attempts": [{"key": KEY}]},
        {"owner": "o", "attempts": [{"key": "../../etc"}]},
        {"owner": "o", "attempts": [{"key": KEY}, {"key": KEY}]},
        [],
        7,
    ],
)
async def test_a_form_that_names_no_attempts_is_refused(tmp_path: Path, form: Any) -> None:
    async with node_in_process(tmp_path) as node:
        answer = await node.submit({KEY: dict(SCRIPT)}, form=form if form else {"attempts": form})
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "malformed"


async def test_files_of_an_attempt_that_was_not_announced_are_refused(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        form = {
            "owner": "o",
            "attempts": [{"key": OTHER, "job": 1, "n": 1, "service": "x", "user": 1}],
        }
        answer = await node.submit({KEY: dict(SCRIPT)}, form=form)
        assert answer.status_code == 400 and KEY in answer.json()["detail"]
        assert list((tmp_path / "payloads").iterdir()) == []


async def test_an_attempt_is_told_as_it_is(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.started()
        view = await node.until(KEY, "Running")
        told = (await node.client.get(f"/v1/attempts/{KEY}")).json()
        assert told["payload"] == view and told["sequence"] >= 2
        for key, status, code in ((OTHER, 404, "not_found"), ("nonsense", 404, "not_found")):
            answer = await node.client.get(f"/v1/attempts/{key}")
            assert (answer.status_code, answer.json()["code"]) == (status, code)


FORM = {"owner": "o", "attempts": [{"key": KEY, "job": 1, "n": 1, "service": "x", "user": 1}]}


def beginning(size: int) -> bytes:
    """A submit of KEY up to somewhere within its file, as a client sends it that claims `size` bytes."""
    disposition = f'Content-Disposition: form-data; name="{KEY}/run.sh"; filename="{KEY}/run.sh"\r\n\r\n'
    form = b'--B\r\nContent-Disposition: form-data; name="attempts"\r\n\r\n' + json.dumps(FORM).encode()
    head = f"POST /v1/attempts HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
    head += "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    return head.encode() + form + b"\r\n--B\r\n" + disposition.encode() + b"tr"


async def test_an_order_amid_a_large_submit_is_answered_before_the_rest_has_come(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        host, port = node.url.removeprefix("http://").split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(beginning(400 << 20) + b"#" * 600_000)
            # The request is on its way to the same process: it is there within a few turns of the loop.
            while (answer := await node.client.get(f"/v1/attempts/{KEY}")).status_code == 404:
                await trio.lowlevel.checkpoint()
            assert (answer.status_code, answer.json()["code"]) == (409, "receiving")
            assert answer.headers["retry-after"] == "1"
            again = await node.submit({KEY: dict(SCRIPT)})
            assert again.status_code == 503 and again.json()["items"][0]["result"] == "busy"
            cancelled = (await node.client.post("/v1/cancel", json={"keys": [KEY]})).json()["items"]
            assert cancelled == [{"key": KEY, "result": "tombstoned", "payload": None}]
            answer = await node.client.get(f"/v1/attempts/{KEY}")
            assert (answer.status_code, answer.json()["code"]) == (410, "tombstoned")
            said = b""
            while not said.endswith(b"}"):
                said += await stream.receive_some()
        assert said.startswith(b"HTTP/1.1 410")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["items"][0]["result"] == "tombstoned"
        assert list((tmp_path / "payloads").iterdir()) == []
        assert list((tmp_path / "incoming").iterdir()) == []


async def test_an_order_for_one_of_several_leaves_the_others(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        go_on, answers = trio.Event(), []
        listed = [{"key": key, "job": 1, "n": 1, "service": "x", "user": 1} for key in (KEY, OTHER)]

        async def body() -> AsyncIterator[bytes]:
            yield b'--B\r\nContent-Disposition: form-data; name="attempts"\r\n\r\n'
            yield json.dumps({"owner": "o", "attempts": listed}).encode()
            for key in (KEY, OTHER):
                head = f'Content-Disposition: form-data; name="{key}/run.sh"; filename="{key}/run.sh"'
                yield b"\r\n--B\r\n" + head.encode() + b"\r\n\r\ntr"
                await go_on.wait()
                yield b"ue"
            yield b"\r\n--B--\r\n"

        async def send() -> None:
            kind = {"Content-Type": "multipart/form-data; boundary=B"}
            answers.append(await node.client.post("/v1/attempts", content=body(), headers=kind))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while (await node.client.get(f"/v1/attempts/{KEY}")).status_code == 404:
                await trio.lowlevel.checkpoint()
            await node.client.post("/v1/release", json={"keys": [KEY]})
            go_on.set()
        assert answers[0].status_code == 200
        found = {item["key"]: item["result"] for item in answers[0].json()["items"]}
        assert found == {KEY: "tombstoned", OTHER: "accepted"}


async def test_what_is_meant_for_another_node_is_refused_and_not_done(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        mine = (await node.client.get("/v1/info")).json()["node_id"]
        order = {"json": {"keys": [KEY]}}
        for path in ("/v1/cancel", "/kill/1", "/v1/nothing"):
            answer = await node.client.post(path, headers={"X-Node-Id": OTHER}, **order)
            assert (answer.status_code, answer.json()["code"]) == (421, "wrong_node"), path
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await node.client.get(f"/v1/attempts/{KEY}")).status_code == 404
        before = {"X-Node-Id": mine, "X-Node-Boot": "the boot before"}
        answer = await node.client.post("/v1/cancel", headers=before, **order)
        assert (answer.status_code, answer.json()["code"]) == (421, "wrong_boot")
        assert (await node.client.get(f"/v1/attempts/{KEY}")).status_code == 404
        answer = await node.client.post("/v1/cancel", headers={"X-Node-Id": mine}, **order)
        assert answer.status_code == 200


async def test_a_cancelled_run_is_killed_and_told(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.started()
        (item,) = (await node.client.post("/v1/cancel", json={"keys": [KEY]})).json()["items"]
        assert item["result"] == "found"
        view = await node.until(KEY, "Killed")
        assert view["end"]["message"] == "terminated" and view["end"]["signal"] == 15


async def test_a_cancel_finds_what_has_ended_with_its_end(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        (await node.started()).finish()
        await node.until(KEY, "Completed")
        for _ in range(2):
            (item,) = (await node.client.post("/v1/cancel", json={"keys": [KEY]})).json()["items"]
            assert item["result"] == "found" and item["payload"]["status"] == "Completed"


async def test_a_released_attempt_goes_and_its_key_stays_dead(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        (await node.started()).finish()
        await node.until(KEY, "Completed")
        answer = await node.client.post("/v1/release", json={"keys": [KEY, OTHER]})
        assert [item["result"] for item in answer.json()["items"]] == ["released", "released"]
        assert (await node.client.get(f"/v1/attempts/{KEY}")).status_code == 410
        assert (await node.submit({KEY: dict(SCRIPT)})).status_code == 410
        assert [frame[0] for frame in await collected(node, KEY)] == [b"X"]
    async with node_in_process(tmp_path) as node:
        assert (await node.submit({KEY: dict(SCRIPT)})).status_code == 410
        assert (await node.submit({OTHER: dict(SCRIPT)})).status_code == 410
        async with node.events() as events:
            assert (await events.next())["payloads"] == []
    assert list((tmp_path / "payloads").iterdir()) == []


async def test_a_running_attempt_that_is_released_is_killed(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        await node.client.post("/v1/release", json={"keys": [KEY]})
        await run.wait()


async def test_events_begin_with_the_picture_of_the_owner_and_go_on_with_changes(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.started(KEY, owner="us")
        await node.until(KEY, "Running")
        await node.started(OTHER, owner="them")
        async with node.events("us") as events:
            picture = await events.next()
            assert picture["event"] == "picture"
            assert [view["key"] for view in picture["payloads"]] == [KEY]
            assert picture["heartbeat"]["held"] == {"us": 1, "them": 1}
            assert picture["executor"] == {"name": node.executor.name, "limits": node.executor.limits}
            (await node.executor.run_of(OTHER)).finish()
            (await node.executor.run_of(KEY)).finish(end(3))
            changed = await events.next_of("payload")
            assert changed["payload"]["key"] == KEY and changed["payload"]["end"]["exit_code"] == 3
            assert changed["sequence"] > picture["sequence"]
            beat = await events.next_of("heartbeat")
            assert set(beat["heartbeat"]) >= {"load", "slots", "cores", "held", "free_disk", "free_memory"}


async def test_a_node_that_orchestrators_share_takes_nothing_ahead_of_its_slots(tmp_path: Path) -> None:
    """Each would see what the others have waiting there as slots that are taken."""
    async with node_in_process(tmp_path, slots=2) as node, node.events("us") as events:
        assert (await events.next())["heartbeat"]["ahead"] == 2
        async with node.events("us") as again:
            assert (await again.next())["heartbeat"]["ahead"] == 2
        async with node.events("them") as others:
            assert (await others.next())["heartbeat"]["ahead"] == 0
            while (await events.next_of("heartbeat"))["heartbeat"]["ahead"]:
                pass
        while not (await events.next_of("heartbeat"))["heartbeat"]["ahead"]:
            pass


async def test_the_stream_of_events_ends_when_the_node_stops(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        with trio.fail_after(promised(2)):
            async with node.client.stream("GET", "/v1/events") as answer:
                async for _line in answer.aiter_lines():
                    node.shutdown.set()


async def test_collect_brings_end_logs_zip_and_its_sum_for_each_key(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        run.print("out\n")
        run.print("err\n", "stderr")
        (run.spec.work / "result.txt").write_bytes(b"R" * 300_000)
        os.mkfifo(run.spec.work / "pipe")
        run.finish()
        await node.until(KEY, "Completed")
        await node.started(OTHER)
        frames = await collected(node, KEY, OTHER, THIRD)
        head = json.loads(frames[0][1])
        assert head["key"] == KEY and head["payload"]["status"] == "Completed"
        assert [entry["path"] for entry in head["manifest"]["entries"]] == ["result.txt", "run.sh"]
        assert head["manifest"]["left_out"][0][0] == "pipe"
        assert head["payload"]["end"]["size"] == 300_000 + len(SCRIPT["run.sh"]) + 8
        joined = {kind: b"".join(data for of, data in frames if of == kind) for kind in (b"O", b"R", b"Z")}
        assert (joined[b"O"], joined[b"R"]) == (b"out\n", b"err\n")
        finish = json.loads(next(data for kind, data in frames if kind == b"F"))
        assert finish == {
            "zip_crc32": zlib.crc32(joined[b"Z"]),
            "zip_sha256": hashlib.sha256(joined[b"Z"]).hexdigest(),  # it was not said that it is not wanted
            "zip_size": len(joined[b"Z"]),
            "stdout_size": 4,
            "stderr_size": 4,
        }
        zipped = zipfile.ZipFile(io.BytesIO(joined[b"Z"]))
        assert zipped.namelist() == ["result.txt", "run.sh", "stdout.log", "stderr.log"]
        assert [json.loads(data) for kind, data in frames if kind == b"X"] == [
            {"key": OTHER, "error": "not_ended"},
            {"key": THIRD, "error": "gone"},
        ]


async def test_what_changed_after_the_end_is_not_collected_as_if_it_had_not(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        (run.spec.work / "a").write_bytes(b"long enough")
        run.finish()
        await node.until(KEY, "Completed")
        (run.spec.work / "a").write_bytes(b"short")
        frames = await collected(node, KEY)
        assert frames[-1][0] == b"X" and "'a'" in json.loads(frames[-1][1])["error"]


async def test_a_script_that_removes_its_own_directory_leaves_its_logs(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        run.print("bye\n")
        (run.spec.work / "run.sh").unlink()
        run.spec.work.rmdir()
        run.finish()
        await node.until(KEY, "Completed")
        frames = await collected(node, KEY)
        zipped = zipfile.ZipFile(io.BytesIO(b"".join(data for kind, data in frames if kind == b"Z")))
        assert zipped.namelist() == ["stdout.log", "stderr.log"]


async def test_results_files_and_logs_of_one_attempt(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        run.print("0123456789")
        (run.spec.work / "d").mkdir()
        (run.spec.work / "d" / "é.txt").write_bytes(b"inside")
        os.symlink("/etc/passwd", run.spec.work / "leak")
        os.symlink("/etc", run.spec.work / "etc")
        root = f"/v1/attempts/{KEY}"
        zipped = zipfile.ZipFile(io.BytesIO((await node.client.get(f"{root}/results")).content))
        assert zipped.namelist() == ["d/", "d/é.txt", "run.sh", "stdout.log", "stderr.log"]
        assert (await node.client.get(f"{root}/files/d/é.txt")).content == b"inside"
        assert (await node.client.get(f"{root}/files/stdout.log")).content == b"0123456789"
        listed = (await node.client.get(f"{root}/files")).json()["entries"]
        assert [(one["path"], one["size"]) for one in listed if one["path"].endswith(".log")] == [
            ("stdout.log", 10),
            ("stderr.log", 0),
        ]
        head = await node.client.head(f"{root}/files/d/é.txt")
        assert (head.headers["content-length"], head.content) == ("6", b"")
        for path in ("leak", "etc/passwd", "d", "nothing", "..%2Frecord.json", "%2E%2E/record.json", "d//x"):
            answer = await node.client.get(f"{root}/files/{path}")
            assert answer.status_code == 404, path
            assert answer.json()["code"] == "not_found", path
        assert (await node.client.get(f"{root}/logs?offset=7")).content == b"789"
        for beyond in (70, (1 << 53) - 1, 10**18 - 1):
            assert (await node.client.get(f"{root}/logs?offset={beyond}")).content == b""
        assert (await node.client.get(f"{root}/logs?stream=stderr")).content == b""
        run.print("\nlast\n")
        for tail, begin in ((0, 16), (1, 11), (2, 0), (9, 0)):
            answer = await node.client.get(f"{root}/logs?tail={tail}")
            assert answer.content == b"0123456789\nlast\n"[begin:]
            head = await node.client.head(f"{root}/logs?tail={tail}&stream=stdout")
            for one in (answer, head):
                assert (one.headers["log-offset"], one.headers["log-size"]) == (str(begin), "16")
        wrong = ("offset=-1", "offset=x", "stream=both", "follow=yes", "off=1", "offset=1&offset=2")
        for query in (*wrong, "tail=-1", "tail=x", "tail=1&offset=1"):
            answer = await node.client.get(f"{root}/logs?{query}")
            assert answer.status_code == 400, query
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kernel_tells", [True, False])
async def test_a_followed_log_grows_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_tells: bool
) -> None:
    if kernel_tells:
        monkeypatch.setattr("node.api.results.FOLLOW_EVERY", 1e6)
    else:
        monkeypatch.setattr("node.host.inotify.Inotify.arm", lambda _inotify, _directory: None)
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        run.print("first ")
        pieces = []
        async with node.client.stream("GET", f"/v1/attempts/{KEY}/logs?follow=1") as answer:
            async for piece in answer.aiter_raw():
                pieces.append(piece)
                if len(pieces) == 1:
                    run.print("second ")
                elif len(pieces) == 2:
                    run.print("third")
                    run.finish()
        assert b"".join(pieces) == b"first second third"


async def test_a_log_can_be_followed_before_it_is_begun_and_until_the_node_stops(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        async with node.client.stream("GET", f"/v1/attempts/{KEY}/logs?follow=1&stream=stderr") as answer:
            run.print("now", "stderr")
            async for piece in answer.aiter_raw():
                assert piece == b"now"
                node.shutdown.set()


@pytest.mark.parametrize("route", ["cancel", "release", "collect"])
async def test_lists_of_keys_are_checked(tmp_path: Path, route: str) -> None:
    async with node_in_process(tmp_path) as node:
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"keys": 7}',
            b'{"keys": ["../x"]}',
            b'{"keys": [7]}',
            b"[" * 100_000,
        ):
            answer = await node.client.post(f"/v1/{route}", content=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), body[:20]
        answer = await node.client.post(f"/v1/{route}?x=1", json={"keys": []})
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_parameter")


async def test_a_full_disk_makes_a_submit_wait_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_in_process(tmp_path) as node:

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("node.runs.workspace.write_all", full)
            answer = await node.submit({KEY: dict(SCRIPT)})
            assert answer.status_code == 507
            assert answer.json()["items"][0]["result"] == "busy"
            by_contract = await node.client.post("/submit", files=[("f", ("run.sh", b"true"))])
            assert by_contract.status_code == 507
        assert list((tmp_path / "payloads").iterdir()) == []
        assert (await node.submit({KEY: dict(SCRIPT)})).status_code == 200


async def test_a_restarted_node_goes_on_where_it_was(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.started()
        await node.until(KEY, "Running")
    async with node_in_process(tmp_path) as node:
        async with node.events("o") as events:
            (view,) = (await events.next())["payloads"]
            assert view["status"] == "Running"
        (await node.executor.run_of(KEY)).finish()
        await node.until(KEY, "Completed")


async def test_a_node_that_is_told_to_kill_leaves_nothing_running(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, on_stop="kill") as node:
        await node.started()
        await node.until(KEY, "Running")
    async with node_in_process(tmp_path) as node:
        told = (await node.client.get(f"/v1/attempts/{KEY}")).json()["payload"]
        assert told["lost"] is True and told["end"]["message"] == "the node was stopped"


async def test_windows_line_endings_are_converted_and_said_so(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        await node.submit({KEY: {"run.sh": b"echo a\r\nexit 0\r\n"}})
        run = await node.executor.run_of(KEY)
        assert run.spec.script.read_bytes() == b"echo a\nexit 0\n"
        run.finish()
        view = await node.until(KEY, "Completed")
        assert view["end"]["message"] == "run.sh had Windows line endings; they were converted"


async def test_a_submit_of_which_nothing_is_wanted_is_answered_before_the_rest_has_come(
    tmp_path: Path,
) -> None:
    async with node_in_process(tmp_path) as node:
        await node.started()
        entry = {"job": 7, "n": 2, "service": "haddock", "user": 1}
        for key, path, result, status in (
            (KEY, "run.sh", "known", 200),
            (OTHER, "..", "malformed", 400),
        ):
            said = json.dumps({"owner": "o", "attempts": [{"key": key, **entry}]})
            sent = f'--B\r\nContent-Disposition: form-data; name="attempts"\r\n\r\n{said}\r\n'
            sent += f'--B\r\nContent-Disposition: form-data; name="{key}/{path}"; filename="{path}"\r\n\r\nx'
            kind = "multipart/form-data; boundary=B"
            url = str(node.client.base_url)
            code, answer = await answer_to_beginning(url, "/v1/attempts", kind, sent.encode())
            assert code == status and json.loads(answer)["items"][0]["result"] == result
