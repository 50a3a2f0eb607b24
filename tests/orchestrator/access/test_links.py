"""Signed links give what they were made for to whoever has them, until they expire or their token does."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.data.ledgers import by_owner
from support.processes.api_server import Server, api_server, form
from support.processes.api_server import credentials as token

from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.access.links import KEY_FILE, LONGEST, Links, load_key
from orchestrator.access.roles import Principal, Role
from orchestrator.access.tokens import Tokens

STRANGE = "ünd so/a b%2F?#&=.txt"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False) as made:
        yield made


async def a_job(server: Server, who: dict[str, str], user: int = 7) -> Job:
    body, kind = form(
        f'name="user_id"|{user}',
        'name="service"|example',
        'name="file"; filename="run.sh"|true',
        f'name="file"; filename="{STRANGE}"|0123456789',
    )
    answer = await server.client.post("/upload", content=body, headers=who | {"Content-Type": kind})
    assert answer.status_code == 201, answer.text
    job = await server.ledger.get(answer.json()["id"])
    assert job is not None
    return job


async def make(server: Server, who: dict[str, str], job: Job, **body: Any) -> str:
    answer = await server.client.post(f"/v1/jobs/{job.id}/links", json=body, headers=who)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_a_link_gives_its_file_to_who_has_no_token(server: Server) -> None:
    portal = token(server, Role.PORTAL, "portal")
    job = await a_job(server, portal)
    url = await make(server, portal, job, file=STRANGE)
    assert (await server.client.get(url.partition("?")[0])).status_code == 401
    answer = await server.client.get(url)
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    part = await server.client.get(url, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    head = await server.client.head(url)
    assert (head.status_code, head.headers["Content-Length"]) == (200, "10")
    # A browser that comes from the portal's page, to whatever name this server has.
    page = {"Host": "jobs.example.org", "Sec-Fetch-Site": "cross-site", "Origin": "https://portal.example"}
    assert (await server.client.get(url, headers=page)).status_code == 200


async def test_a_link_shows_its_file_in_a_page_if_it_was_made_for_that(server: Server) -> None:
    portal = token(server, Role.PORTAL, "portal")
    job = await a_job(server, portal)
    saved, shown = [await make(server, portal, job, file=STRANGE, view=view) for view in (False, True)]
    answer = await server.client.get(shown)
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["Content-Disposition"].startswith("inline")
    assert (await server.client.get(saved)).headers["Content-Disposition"].startswith("attachment")
    for changed in (f"{saved}&view=1", shown.removesuffix("&view=1"), shown.replace("view=1", "view=0")):
        assert code(await server.client.get(changed)) == (403, "changed_link"), changed
    order = {"file": "run.sh", "view": 1}
    answer = await server.client.post(f"/v1/jobs/{job.id}/links", json=order, headers=portal)
    assert code(answer) == (422, "bad_field")
    assert "view" not in await make(server, portal, job, view=True)  # of all results it means nothing


async def test_a_file_that_an_ended_job_has_not_left_gets_no_link(server: Server) -> None:
    root = token(server, Role.OPERATOR, "root")
    job = await a_job(server, root)
    await make(server, root, job, file="later.txt")  # it may come yet
    await server.ledger.record([by_owner(job.id, job.status, Status.KILLED, "")])
    await make(server, root, job, file="run.sh")
    for missing in ("later.txt", "../run.sh", "."):
        answer = await server.client.post(f"/v1/jobs/{job.id}/links", json={"file": missing}, headers=root)
        assert code(answer) == (404, "unknown_file"), missing


async def test_a_link_gives_all_results(server: Server) -> None:
    root = token(server, Role.OPERATOR, "root")
    job = await a_job(server, root)
    url = await make(server, root, job)
    assert code(await server.client.get(url)) == (409, "not_ended")
    await server.client.post(f"/terminate/{job.id}", headers=root, timeout=60)
    row = await server.ledger.get(job.id)
    assert row is not None
    await server.ledger.record([by_owner(job.id, row.status, Status.KILLED, "")])
    answer = await server.client.get(url)
    assert answer.status_code == 200, answer.text
    assert "run.sh" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert (await server.client.delete(f"/v1/jobs/{job.id}", headers=root)).status_code == 200
    assert code(await server.client.get(url)) == (404, "nothing_left")
    answer = await server.client.post(f"/v1/jobs/{job.id}/links", json={}, headers=root)
    assert code(answer) == (404, "nothing_left")


async def test_it_opens_nothing_else(server: Server) -> None:
    portal = token(server, Role.PORTAL, "portal")
    job, other = await a_job(server, portal), await a_job(server, portal)
    path, _, signature = (await make(server, portal, job, file="run.sh")).partition("?")
    base = path.rpartition("/")[0]
    for method, elsewhere in (
        ("GET", f"{base}/{'%C3%BCnd%20so'}"),
        ("GET", path.replace(f"/{job.id}/", f"/{other.id}/")),
        ("GET", f"/v1/jobs/{job.id}/results"),
        ("GET", f"{path}/"),
    ):
        answer = await server.client.request(method, f"{elsewhere}?{signature}")
        assert code(answer) == (403, "changed_link"), elsewhere
    for method, elsewhere in (
        ("GET", f"/v1/jobs/{job.id}"),
        ("GET", f"/v1/jobs/{job.id}/files"),
        ("GET", "/v1/jobs"),
        ("DELETE", f"/v1/jobs/{job.id}"),
        ("POST", f"/v1/jobs/{job.id}/links"),
    ):
        assert (await server.client.request(method, f"{elsewhere}?{signature}")).status_code == 401
    for method in ("POST", "PUT", "DELETE"):
        assert (await server.client.request(method, f"{path}?{signature}")).status_code in (401, 405)


async def test_what_was_changed_is_refused(server: Server) -> None:
    portal = token(server, Role.PORTAL, "portal")
    job = await a_job(server, portal)
    token(server, Role.PORTAL, "other")
    url = await make(server, portal, job, file="run.sh")
    path, _, value = url.partition("?link=")
    until, signature, name = value.split(".")
    changed = [
        f"{int(until) + 1}.{signature}.{name}",
        f"{until}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}.{name}",
        f"{until}.{signature}.other",
        f"{until}.{signature}.",
        f"{until}.{signature}",
        "",
        f"{value}&link={value}",
        f"{value}&more=1",
        "\u00fc.\u0661",
    ]
    for one in changed:
        answer = await server.client.get(f"{path}?link={one}")
        assert code(answer) == (403, "changed_link"), one
    assert code(await server.client.get(f"{path}?link={until}.{signature}.nobody")) == (403, "revoked_link")
    assert (await server.client.get(url)).status_code == 200


async def test_it_expires_and_ends_with_its_token(server: Server) -> None:
    root = token(server, Role.OPERATOR, "root")
    portal = token(server, Role.PORTAL, "portal", expires_at=server.clock.now() + 5000)
    job = await a_job(server, portal)
    short, long, roots = [
        await make(server, who, job, file="run.sh", expires_in=life)
        for who, life in ((portal, 10), (portal, 9000), (root, 9000))
    ]
    server.clock.time += 11
    assert code(await server.client.get(short)) == (403, "expired_link")
    assert (await server.client.get(long)).status_code == 200
    server.clock.time += 5000
    assert code(await server.client.get(long)) == (403, "revoked_link")
    assert (await server.client.get(roots)).status_code == 200
    server.api.tokens.remove("root")
    assert code(await server.client.get(roots)) == (403, "revoked_link")
    # Another token of that name, as of a file that was made anew, is another.
    token(server, Role.OPERATOR, "root")
    assert code(await server.client.get(roots)) == (403, "changed_link")


async def test_a_link_is_made_by_who_sees_the_job_and_is_not_more_than_they(server: Server) -> None:
    portal = token(server, Role.PORTAL, "portal")
    job = await a_job(server, portal)
    stranger = token(server, Role.USER, "stranger", user=8)
    answer = await server.client.post(f"/v1/jobs/{job.id}/links", json={}, headers=stranger)
    assert code(answer) == (404, "unknown_job")
    own = token(server, Role.USER, "own", user=7)
    assert (await server.client.get(await make(server, own, job, file="run.sh"))).status_code == 200
    for bad in ({"file": ""}, {"file": 7}, {"expires_in": 0}, {"expires_in": LONGEST + 1}, {"more": 1}):
        answer = await server.client.post(f"/v1/jobs/{job.id}/links", json=bad, headers=own)
        assert answer.status_code == 422, bad


async def test_a_link_is_absolute_where_the_address_is_known(tmp_path: Path) -> None:
    async with api_server(tmp_path, public_urls=("https://jobs.example.org/below",)) as server:
        job = await a_job(server, {})
        url = await make(server, {}, job, file="run.sh")
        top = "https://jobs.example.org/below"
        assert url.startswith(f"{top}/v1/jobs/{job.id}/files/run.sh?link=")
        # Who made it needed no token: so it ends by its time alone.
        assert (await server.client.get(url.removeprefix(top))).status_code == 200


def test_the_key_is_kept_and_made_anew_if_it_is_damaged(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert load_key(tmp_path) == key and len(key) == 32
    path = tmp_path / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    another = load_key(tmp_path)
    assert another != key and load_key(tmp_path) == another
    path.chmod(0o644)
    assert load_key(tmp_path) != another, "others may have read it"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert len(load_key(tmp_path)) == 32 and not path.is_symlink()


def test_paths_and_tokens_do_not_run_into_each_other() -> None:
    links = Links(b"k" * 32, Tokens((), lambda: 0.0), lambda: 0.0)
    made = {
        links.make(path, Principal(Role.OPERATOR, "", token=name), until).partition("?")[2].split(".")[1]
        for path in ("/v1/jobs/1/files/a", "/v1/jobs/1/files/a\n", "/v1/jobs/11/files/a")
        for name in (None, "a", "b")
        for until in (1, 11)
    }
    assert len(made) == 18
