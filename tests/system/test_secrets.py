"""Secrets stand where they are kept, and nowhere else: in no log, ledger, history, answer, result, command
line or environment of a job, and in no core."""

from __future__ import annotations

import resource
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import trio
from support.peers.portals import Portal, portal
from support.processes.processes import COMMAND, Place, Started

WEBHOOK = "whsec_UGxhbnRlZFNlY3JldEZvckNhbGxiYWNrc0luQVRlc3Q="
SPY = """
env > env.txt
for process in /proc/[0-9]*; do
    tr '\\0' '\\n' < $process/cmdline >> seen.txt
    # Who is root looks into every process; for others, servers and nodes are closed.
    [ "$(id -u)" = 0 ] || tr '\\0' '\\n' < $process/environ >> seen.txt
done 2> /dev/null
cat env.txt; echo "$@"; true
"""


async def plant(here: Place, user: Portal, server: Started) -> dict[str, str]:
    """Secrets of each kind, by what they are."""
    user.http.headers.update(here.credentials("server"))
    found = {"operator": user.http.headers["Authorization"].removeprefix("Bearer ")}
    for role in ("portal", "node"):
        made = await user.http.post("/v1/tokens", json={"role": role, "name": f"a {role}"})
        found[role] = made.json()["secret"]
    found["mistyped"] = found["portal"][:-1] + ("0" if found["portal"][-1] != "0" else "1")
    found["webhook"] = WEBHOOK.removeprefix("whsec_")
    login = await user.http.post("/v1/session", json={"token": found["portal"]})
    assert login.status_code == 201, login.text
    (found["cookie"],) = [value for name, value in login.cookies.items() if "orchestrator" in name]
    found["order"] = login.json()["session_token"]
    user.http.cookies.clear()
    return found


async def use(user: Portal, secrets: Mapping[str, str], job: int) -> list[str]:
    """Show them where one may and where one may not; what is answered."""
    answers = []
    for secret in secrets.values():
        bearer = {"Authorization": f"Bearer {secret}"}
        answers += [
            await user.http.get("/v1/jobs", headers=bearer),
            await user.http.get("/v1/nodes", headers=bearer | {"Origin": "https://elsewhere.example"}),
            await user.http.post("/v1/session", json={"token": secret}),
            await user.http.post("/v1/session", content=f'{{"token": "{secret}'),
            await user.http.post("/upload", content=b"nonsense", headers=bearer),
        ]
        user.http.cookies.clear()
    for path in (
        *("/metrics", "/v1/audit?limit=500", "/v1/tokens", "/v1/nodes", "/v1/services", "/v1/session"),
        *(f"/v1/jobs/{job}{part}" for part in ("", "/history", "/logs", "/files")),
    ):
        answers.append(await user.http.get(path))
    return [answer.text + str(answer.headers) for answer in answers]


def contents(top: Path, *kept: Path) -> str:
    """All that stands in files, but for those that are there to keep a secret."""
    files = [path for path in top.rglob("*") if path.is_file() and not path.is_symlink() and path not in kept]
    return "\n".join(_content(path) for path in files)


def _content(path: Path) -> str:
    """Of a file that was let go of meanwhile nothing."""
    try:
        return path.read_bytes().decode("latin-1")
    except FileNotFoundError:
        return ""


def processes(here: Place) -> str:
    """What `ps` shows of all that runs."""
    shown = []
    for process in here.left():
        try:
            shown += process.cmdline()
        except psutil.Error:
            continue
    return "\n".join(shown)


async def test_a_secret_stands_where_it_is_kept_and_nowhere_else(here: Place) -> None:
    secret_file = here.directory / "webhook"
    secret_file.write_text(f"{WEBHOOK}\n")
    secret_file.chmod(0o600)
    server = here.server(
        config="[services.example]\n",
        OPEN_LOCAL="0",
        CALLBACK_HOSTS="portal.example.org",
        CALLBACK_SECRET_FILE=str(secret_file),
    )
    async with portal(server.url) as user:
        secrets = await plant(here, user, server)
        node_data = here.directory / "node"
        joins = ("--join", server.url, "--join-services", "example", "--slots", "2")
        here.start(
            *("node", "--port", "0", "--data", str(node_data), "--on-stop", "kill", *joins),
            name="node",
            command=[*COMMAND],  # itself, and no fork of this process
            environment={"ORCHESTRATOR_TOKEN": secrets["node"], "SERVERS": "127.0.0.1", "PASS_ENV": "*"},
        )
        job = await user.upload(SPY)
        assert (await user.ended(job))["status"] == "Completed"
        ledger = here.directory / "server" / "db.sqlite"
        with closing(sqlite3.connect(ledger)) as db:
            agreed = [secret for (secret,) in db.execute("SELECT secret FROM node_secrets")]
            rows = [line for line in db.iterdump() if 'INTO "node_secrets"' not in line]
        assert len(agreed) == 1
        secrets["agreed"] = agreed[0]
        answers = await use(user, secrets, job)
        left = b"".join((await user.contents(job)).values()).decode("latin-1")
    # `tokens` and `sessions` hold hashes. The cookie is known to its browser, and what a session shows too.
    told = {"answers": "\n".join(answers), "rows": "\n".join(rows), "ps": processes(here)}
    data = here.directory / "server" / "data"
    kept = (secret_file, data / "operator.token", *(node_data / "orchestrators").rglob("*"))
    ledger_files = tuple(ledger.parent.glob("db.sqlite*"))
    told["files"] = contents(here.directory, *kept, *ledger_files)
    # The ledger keeps what it has agreed on with the node, in that one table.
    told["ledger"] = contents(here.directory, *kept).replace(agreed[0], "")
    told["job"] = left
    assert "ORCHESTRATOR_ATTEMPT" in left and "--join" in told["ps"]
    for place, text in told.items():
        for kind, secret in secrets.items():
            if (place, kind) in {("answers", "cookie"), ("answers", "order")}:
                continue
            assert secret not in text, f"{kind} stands in {place}"


@pytest.mark.parametrize("command", ["server", "node"])
async def test_no_core_is_left(here: Place, command: str) -> None:
    pattern = await trio.Path("/proc/sys/kernel/core_pattern").read_text()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"cores are not written where they can be looked for: {pattern}")
    # Not a fork of this process, whose core that would be.
    arguments = [command, "--port", "0", "--data", str(here.directory / "data")]
    process = here.begin(*arguments, name=command, environment={"DB_PATH": str(here.directory / "db")})
    process.url = here._url(process)
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert await process.end(signal.SIGABRT) == -signal.SIGABRT
    assert list(here.directory.glob("*core*")) == []
