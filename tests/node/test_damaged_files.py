"""Every file that the node and its shepherds write and read again, damaged in each way while a job is in each
state: the next node starts, what ran goes on and runs once, what had ended has its end, and nothing stays."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import signal
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from support.data.damage import a_directory, empty, half, missing, of_another, zeros
from support.data.directories import until
from support.peers.node_clients import NodeClient
from support.processes.node_processes import ENDED as ENDS
from support.processes.node_processes import NodeProcess, inner, node_process

from node.payloads.records import Records

HUGE = 100 << 20


def huge(path: Path, other: Path) -> None:
    os.truncate(path, HUGE)


def no_utf8(path: Path, other: Path) -> None:
    path.write_bytes(b"\xff\xfe\x80" + path.read_bytes())


def half_a_surrogate(path: Path, other: Path) -> None:
    path.write_bytes(re.sub(rb'"(haddock|o|)"', rb'"\\ud800"', path.read_bytes()))


def out_of_range(path: Path, other: Path) -> None:
    path.write_bytes(re.sub(rb"(?<=[ :])[0-9][0-9.e]*\b", b"99999999999999999999", path.read_bytes()))


def not_a_number(path: Path, other: Path) -> None:
    path.write_bytes(re.sub(rb"(?<=[ :])[0-9][0-9.e]*\b", b"NaN", path.read_bytes()))


def nested(path: Path, other: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def of_the_future(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"{", b'{"version": 99, ', 1).replace(b"\nnonce", b"\nversion 99\nnonce")
    )


WAYS = [
    *(missing, empty, half, zeros, a_directory, of_another, huge),
    *(no_utf8, half_a_surrogate, out_of_range, not_a_number, nested, of_the_future),
]
PREPARED = ("record.json",)
RUNNING = ("record.json", "running", "intent", "run", "ended.*", "progress/progress")
ENDED = ("record.json", "running", "intent", "run", "ended", "manifest.json")
OF_THE_NODE = ("node.json", "counter", "reserve/space", "written", "spawner.lock", "spawner.log")
HARMLESS = (of_the_future,)


class Jobs:
    """Payloads by state and by the file of theirs that is to be damaged; one more of each, left as it is."""

    def __init__(self, here: Path, data: Path) -> None:
        self.ran, self.go, self.payloads = here / "ran", here / "go", data / "payloads"
        self.ran.mkdir()
        self.prepared = {name: secrets.token_hex(16) for name in (*PREPARED, "none")}
        self.running = {name: secrets.token_hex(16) for name in (*RUNNING, "none")}
        self.ended = {name: secrets.token_hex(16) for name in (*ENDED, "none")}
        self.all = [*self.prepared.values(), *self.running.values(), *self.ended.values()]

    async def submit(self, node: NodeClient, keys: Collection[str], then: str) -> None:
        scripts = {
            key: f"echo 0.5 > $ORCHESTRATOR_PROGRESS; echo $$ >> {self.ran}/{key}; echo out; {then}"
            for key in keys
        }
        # With a mark at its beginning, of which something is to be said in the end.
        sent = {key: {"run.sh": b"\xef\xbb\xbf" + script.encode()} for key, script in scripts.items()}
        assert (await node.submit(sent, named=True)).status_code == 200

    async def bring_about(self, node: NodeClient) -> None:
        wait = f"until [ -e {self.go} ]; do sleep 0.02; done"
        await self.submit(node, self.ended.values(), "echo done > result")
        await reached(node, self.ended.values(), "Completed")
        await self.submit(node, self.running.values(), wait)
        await reached(node, self.running.values(), "Running")
        some = len(self.running) + len(self.ended)
        await until(lambda: sum(map(self.times_run, self.all)) == some, self.ran)
        await self.submit(node, self.prepared.values(), "true")

    def damage(self, how: Callable[[Path, Path], None]) -> None:
        for kind in (self.prepared, self.running, self.ended):
            for name, key in kind.items():
                if name != "none":
                    (path,) = (self.payloads / key).glob(name)
                    (other,) = (self.payloads / kind["none"]).glob(name)
                    how(path, other)

    def times_run(self, key: str) -> int:
        marks = self.ran / key
        return len(marks.read_text().splitlines()) if marks.exists() else 0


async def reached(node: NodeClient, keys: Collection[str], *statuses: str) -> dict[str, dict[str, Any]]:
    """The views of payloads once all of them are in one of these states."""
    found: dict[str, dict[str, Any]] = {}
    async with node.events() as events:
        while found.keys() < set(keys):
            event = await events.next()
            views = event["payloads"] if event["event"] == "picture" else [event.get("payload")]
            found.update(
                {
                    view["key"]: view
                    for view in views
                    if view and view["key"] in keys and view["status"] in statuses
                }
            )
    return found


@pytest.mark.parametrize("how", WAYS)
async def test_what_runs_goes_on_and_what_ended_has_ended(
    tmp_path: Path, how: Callable[[Path, Path], None]
) -> None:
    data = tmp_path / "data"
    jobs = Jobs(tmp_path, data)
    never, slots = secrets.token_hex(16), str(len(jobs.running))
    async with node_process(data, "--slots", slots, how=signal.SIGKILL) as node:
        await jobs.bring_about(node)
        await node.client.post("/v1/cancel", json={"keys": [never]})
        before = (await node.client.get("/v1/info")).json()["node_id"]
    jobs.damage(how)
    for name in OF_THE_NODE:
        how(data / name, data / "payloads" / jobs.ended["none"] / "record.json")
    if how is not missing:
        how(data / "tombstones" / never, data / "payloads" / jobs.ended["none"] / "record.json")
    async with node_process(data, "--slots", slots, how=signal.SIGKILL) as node:
        assert (await node.client.get("/v1/info")).json()["node_id"] == before
        if how is not missing:
            assert (await node.submit({never: {"run.sh": b"true"}})).status_code == 410
        await _check(node, jobs, lost={jobs.prepared["record.json"]} if how not in HARMLESS else set())
        answer = await node.client.post("/submit", files=[("file", ("run.sh", b"true"))])
        assert answer.json()["id"] > len(jobs.all)
        assert _peak(inner(node.process.pid)) < 128 << 20
        await _let_go(node, jobs)
    assert {path.name for path in data.iterdir() if path.name[0] != "."} == {
        *(
            "counter",
            "incoming",
            "lock",
            "node.json",
            "payloads",
            "reserve",
            "spawner.lock",
            "spawner.log",
        ),
        *("tombstones", "trash", "view", "written"),
    }


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", ["node.json", "lock"])
def test_who_a_node_is_stands_in_two_files(
    tmp_path: Path, name: str, how: Callable[[Path, Path], None]
) -> None:
    other = Records(tmp_path / "other")
    other.close()
    ids = []
    for _ in range(2):
        records = Records(tmp_path / "data")
        ids.append(records.node_id)
        records.close()
        how(tmp_path / "data" / name, tmp_path / "other" / "reserve" / "space")
    assert ids[0] == ids[1]


async def _check(node: NodeProcess, jobs: Jobs, lost: set[str]) -> None:
    for key in jobs.running.values():
        view = (await node.client.get(f"/v1/attempts/{key}")).json()["payload"]
        assert view["status"] == "Running", view
    jobs.go.touch()
    for key, view in (await reached(node, jobs.all, *ENDS)).items():
        if key in lost:
            assert (view["status"], view["lost"]) == ("Failed", True)
            assert view["end"]["message"] == "what the node knew of it is damaged"
        else:
            assert (view["status"], view["lost"]) == ("Completed", False), (key, view)
        assert jobs.times_run(key) == (key not in lost)
    whole = jobs.ended["ended"]
    content = (await node.client.get(f"/v1/attempts/{whole}/results")).content
    assert zipfile.ZipFile(io.BytesIO(content)).read("result") == b"done\n"
    # What cannot be had is told, and holds nothing else up.
    assert len((await node.client.post("/v1/collect", json={"keys": jobs.all})).content) > 0


async def _let_go(node: NodeProcess, jobs: Jobs) -> None:
    answer = await node.client.post("/v1/release", json={"keys": jobs.all})
    assert answer.status_code == 200
    await until(lambda: not set(os.listdir(jobs.payloads)) & set(jobs.all), jobs.payloads)


def _peak(pid: int) -> int:
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.parametrize("spoilt", ["record.json running", "record.json running intent run"])
async def test_a_job_of_which_nothing_tells_any_more_is_ended_and_told_as_lost(
    tmp_path: Path, spoilt: str
) -> None:
    data = tmp_path / "data"
    jobs = Jobs(tmp_path, data)
    key = jobs.running["none"]
    async with node_process(data, how=signal.SIGKILL) as node:
        await jobs.submit(node, [key], "setsid sleep 600 & cd /; sleep 600")
        await until(lambda: jobs.times_run(key) > 0, jobs.ran)
        await node.until(key, "Running")
    for name in spoilt.split():
        empty(jobs.payloads / key / name, Path())
    async with node_process(data) as node, node.events("somebody") as events:
        views = {view["key"]: view for view in (await events.next())["payloads"]}
        while key not in views or views[key]["end"] is None:
            view = (await events.next_of("payload"))["payload"]
            views[view["key"]] = view
        assert views[key]["lost"]
        assert views[key]["end"]["message"].split("; ")[0] == "what the node knew of it is damaged"
        assert jobs.times_run(key) == 1 and not _left_of(data)
        await _let_go(node, jobs)


async def test_a_node_whose_name_is_lost_ends_what_runs_for_it_runs_elsewhere_now(tmp_path: Path) -> None:
    data = tmp_path / "data"
    jobs = Jobs(tmp_path, data)
    async with node_process(data, how=signal.SIGKILL) as node:
        await jobs.submit(node, jobs.running.values(), "sleep 600")
        await reached(node, jobs.running.values(), "Running")
        before = (await node.client.get("/v1/info")).json()["node_id"]
    for name in ("node.json", "lock"):
        empty(data / name, Path())
    async with node_process(data) as node:
        assert (await node.client.get("/v1/info")).json()["node_id"] != before
        ends = await reached(node, jobs.running.values(), "Failed")
        assert all(view["lost"] for view in ends.values())
        assert not _left_of(data)


def _left_of(data: Path) -> list[str]:
    """What still has a descriptor or a directory in there but the node and its spawner."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            places = [os.readlink(f"/proc/{name}/cwd"), *map(os.readlink, Path(f"/proc/{name}/fd").iterdir())]
        except OSError:
            continue
        found += [place for place in places if place.startswith(f"{data}/payloads")]
    return found


async def test_an_order_to_end_it_is_carried_out_though_its_marks_are_damaged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    jobs = Jobs(tmp_path, data)
    keys = list(jobs.running.values())[:2]
    async with node_process(data, how=signal.SIGKILL) as node:
        await jobs.submit(node, keys, "trap '' TERM; sleep 600")
        await reached(node, keys, "Running")
    (path,) = (jobs.payloads / keys[0]).glob("run")
    out_of_range(path, path)
    empty(jobs.payloads / keys[1] / "run", Path())
    async with node_process(data, "--grace", "0.2") as node:
        await node.client.post("/v1/cancel", json={"keys": keys})
        for key in keys:
            assert (await node.end_of(key))["status"] == "Killed"
        assert not _left_of(data)


async def test_what_is_in_the_place_of_a_directory_of_ours_does_not_end_the_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with node_process(data):
        pass
    for name in ("payloads", "tombstones", "incoming", "trash"):
        (data / name).rmdir()
        (data / name).write_text(json.dumps({}))
    async with node_process(data) as node:
        assert (await node.run("true"))["status"] == "Completed"
