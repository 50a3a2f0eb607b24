"""Single files of jobs, letting go of their data, and finding jobs in lists."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes.gates import gate
from support.processes.processes import Place, Refused, Started

from orchestrator.client import Client

USER = 31


class Shell:
    def __init__(self, here: Place, url: str) -> None:
        self.here = here
        self.environment = {"ORCHESTRATOR_URL": url, "XDG_CONFIG_HOME": "/nowhere"}

    def run(self, *arguments: str | int) -> Refused:
        return self.here.command(*map(str, arguments), environment=self.environment)

    def json(self, *arguments: str | int) -> Any:
        done = self.run(*arguments, "--json")
        assert done.status == 0, done
        return json.loads(done.out)


@pytest.fixture
def shell(here: Place, shared: Started) -> Shell:
    return Shell(here, shared.url)


def test_files_are_listed_and_single_ones_fetched(shell: Shell, shared: Started) -> None:
    script = b"mkdir 'a b'; printf made > 'a b/o#1'; printf '\\033[2J' > odd; ln -s odd link"
    with Client(shared.url) as client:
        job = client.wait(client.submit({"run.sh": script}, user=USER).id, 60)
        listed = {file.path: file for file in client.files(job.id)}
    assert (listed["a b/o#1"].size, listed["link"].target, listed["a b"].kind) == (4, "odd", "directory")
    assert {one["path"] for one in shell.json("files", job.id)} == set(listed)
    table = shell.run("files", job.id).out
    assert "a b/o#1" in table and "link -> odd" in table
    done = shell.run("get", job.id, "a b/o#1", "odd", "-o", "here")
    top = shell.here.directory
    assert done.out.splitlines() == ["here/a b/o#1", "here/odd"]
    assert (top / "here" / "a b" / "o#1").read_bytes() == b"made"
    assert (top / "here" / "odd").read_bytes() == b"\x1b[2J"
    assert sorted(os.listdir(top / "here")) == ["a b", "odd"]
    assert shell.run("get", job.id, "odd").out == f"job-{job.id}/odd\n"
    for path, status in (("nope", 1), ("../x", 2), ("/etc/x", 2)):
        refused = shell.run("get", job.id, path)
        assert (refused.status, refused.out) == (status, "")
        assert f"; `orchestrator files {job.id}` lists" in refused.lines[-1], refused.lines
    assert shell.run("get", job.id, "odd", "--zip").status == 2


def test_what_is_refused_does_not_stand_in_the_way(shell: Shell, shared: Started) -> None:
    with Client(shared.url) as client:
        job = client.wait(client.submit({"run.sh": b"echo made > out"}, user=USER).id, 60)
    top = shell.here.directory
    before = sorted(os.listdir(top))
    for arguments in (
        (job.id, "no/such"),
        (job.id + 1000, "out"),
        (job.id + 1000,),
        (job.id + 1000, "--zip"),
    ):
        assert shell.run("get", *arguments).status == 1
    assert sorted(os.listdir(top)) == before
    assert shell.run("get", job.id).out == f"job-{job.id}\n"
    assert (top / f"job-{job.id}" / "out").read_text() == "made\n"


def test_a_file_of_a_running_job_is_fetched_as_it_is_now(
    shell: Shell, shared: Started, tmp_path: Path
) -> None:
    with gate(tmp_path / "gate") as shut, Client(shared.url) as client:
        script = f"echo so far > out; echo begun; {shut.wait}; echo more >> out"
        job = client.submit({"run.sh": script.encode()}, user=USER)
        assert next(client.logs(job.id, follow=True)) == b"begun\n"
        (node,) = client.nodes()
        for name in (node.id, node.id[:6], node.url):
            assert [one["id"] for one in shell.json("ls", "--node", name)] == [job.id]
        shell.run("get", job.id, "out", "-o", "now")
        refused = shell.run("delete", job.id, "--yes")
        told = f"job {job.id} has not ended; cancel it first: orchestrator cancel {job.id}"
        assert (refused.status, refused.lines) == (1, [told])
        refused = shell.run("get", job.id)
        told = f"job {job.id} is Running; `orchestrator get {job.id} --partial` takes what is there"
        assert (refused.status, refused.lines) == (1, [told])
        shut.open()
        client.wait(job.id, 60)
    assert (shell.here.directory / "now" / "out").read_text() == "so far\n"
    shell.run("get", job.id, "out", "-o", "now")
    assert (shell.here.directory / "now" / "out").read_text() == "so far\nmore\n"


def test_data_is_deleted_when_it_is_meant_and_refusals_are_told_by_id(shell: Shell, shared: Started) -> None:
    with Client(shared.url) as client:
        ids = [client.submit({"run.sh": b"true"}, user=USER, name=f"deleted {n}").id for n in (1, 2)]
        for number in ids:
            client.wait(number, 60)
    asked = shell.run("delete", *ids)
    assert asked.status == 2 and "the data of 2 jobs would be deleted; add --yes" in asked.lines[-1]
    assert "the data of 1 job would" in shell.run("delete", ids[0]).lines[-1]
    assert shell.run("delete").status == 2
    found = [one["id"] for one in shell.json("ls", "--search", "deleted", "--status", "completed")]
    assert found == ids[::-1]
    done = shell.run("delete", ids[0], ids[0], 4_000_000_000, "--yes")
    assert (done.status, done.lines) == (1, ["there is no job 4000000000"])
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [[str(ids[0]), "Cleaned"]]
    assert shell.json("delete", ids[1], "--yes")[0]["status"] == "Cleaned"
    assert shell.run("files", ids[0]).lines == [f"nothing is left of job {ids[0]}"]


def test_who_fills_the_queue_is_shown_beneath_it(here: Place) -> None:
    server = here.server(SERVICE_EXAMPLE_RUNS_PER_USER="5")
    shell = Shell(here, server.url)
    with Client(server.url) as client:
        for user in (7, 7, 8):
            client.submit({"run.sh": b"true"}, user=user)
        told = [(one.service, one.user, one.queued, one.under_way) for one in client.queue()]
        assert told == [("example", 7, 2, 0), ("example", 8, 1, 0)]
        (minute,) = client.activity()
        assert minute["submitted"] == 3
    lines = shell.run("queue").out.splitlines()
    assert lines[0].startswith("PLACE") and len(lines) == 8 and lines[4] == ""
    assert [line.split() for line in lines[6:]] == [["example", "7", "2", "0"], ["example", "8", "1", "0"]]
    assert [one["user_id"] for one in shell.json("queue", "--users")] == [7, 8]
    assert len(shell.json("queue")) == 3


def test_what_was_used_is_told_as_a_table_as_csv_and_as_json(shell: Shell, shared: Started) -> None:
    with Client(shared.url) as client:
        client.wait(client.submit({"run.sh": b"true"}, user=4711).id, 60)
    (used,) = shell.json("usage", "--user", 4711, "--service", "example")
    assert (used["user_id"], used["jobs"], used["completed"], used["bytes_in"]) == (4711, 1, 1, 4)
    month = used["month"]
    table = shell.run("usage", "--user", 4711, "--from", month, "--to", month).out.splitlines()
    assert table[0].split()[:4] == ["MONTH", "USER", "SERVICE", "JOBS"]
    assert table[1].split()[:5] == [month, "4711", "example", "1", "1"] and len(table) == 2
    lines = shell.run("usage", "--user", 4711, "--csv").out.splitlines()
    assert lines[0].startswith("month,user_id,service,jobs,") and len(lines) == 2
    assert lines[1].startswith(f'"{month}",4711,"example",1,1,0,0,0,')
    assert shell.json("usage", "--to", "1999-12") == []
    assert shell.run("usage", "--csv", "--json").status == 2
    refused = shell.run("usage", "--from", "2026")
    assert refused.status == 1 and "a month such as 2026-11" in refused.lines[-1]


def test_a_link_gives_one_file_and_who_did_what_is_listed(shell: Shell, shared: Started) -> None:
    with Client(shared.url) as client:
        job = client.wait(client.submit({"run.sh": b"printf made > 'a b'"}, user=USER).id, 60)
    made = shell.run("link", job.id, "a b", "--expires", "10m")
    assert made.status == 0 and made.out.startswith(f"{shared.url}/v1/jobs/{job.id}/files/a%20b?link="), made
    assert httpx.get(made.out.strip(), trust_env=False).content == b"made"
    refused = shell.run("link", job.id, "--expires", "8d")
    assert refused.status == 1 and "at most 604800" in refused.lines[-1]
    assert shell.run("link", job.id, "--expires", "soon").status == 2
    assert shell.run("delete", job.id, "--yes").status == 0
    lines = shell.json("audit", "--job", job.id)
    assert [line["action"] for line in lines] == ["delete", "link", "submit"]
    assert shell.json("audit", "--job", job.id, "--limit", 1) == lines[:1]
    assert shell.json("audit", "--job", job.id, "--since", "2999-01-01") == []
    table = shell.run("audit", "--job", job.id).out
    assert f"job {job.id}" in table and "files/a b for 600 s" in table
