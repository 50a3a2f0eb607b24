"""Run jobs on a node that nobody can connect to, over a link that is cut again and again.

The server and two nodes are on hosts of their own (network namespaces). One of them dials out; a filter of
packets there drops whatever comes to open a connection. The other one is dialled. Each job is judged by its
end, its results, and by how often its script was begun; then both nodes run the same jobs in turn, for what
dialling out costs. It needs root, `ip`, `ss` and `nft`, and changes nothing of this machine's own network.
The exit status is 0 if all are right, else it is 1.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.peers.portals import Portal, portal
from support.processes.hosts import Host, hosts
from support.processes.processes import COMMAND, Place, own_place

CONFIG = """\
[services.away]
runs_per_user = 8
max_runs = 8

[services.near]
nodes = ["http://{near}:9000"]
runs_per_user = 8
max_runs = 8
"""
FILTER = """\
table inet shut {
    chain input {
        type filter hook input priority 0; policy accept;
        tcp flags & (fin | syn | rst | ack) == syn counter drop
        meta l4proto udp drop
    }
}
"""
SLOTS = "4"
_NEW_NETWORK = 0x40000000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--jobs", type=click.IntRange(1), default=200, help="How many, while the link is cut.")
@click.option("--cuts", type=click.IntRange(0), default=50, help="How often.")
@click.option("--pairs", type=click.IntRange(0), default=50, help="Jobs in turn on both nodes, to compare.")
@click.option("--seed", type=int, default=1, help="Of when it is cut.")
def main(*, jobs: int, cuts: int, pairs: int, seed: int) -> None:
    """Run jobs on a node that dials out and lets nobody in, over a link that is cut again and again."""
    missing = [name for name in ("ip", "ss", "nft", "nsenter") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        raise click.ClickException(f"this needs root, and: {', '.join(missing) or 'nothing else'}")
    with own_place("dial-out") as here, hosts(3) as (server, away, near):
        subprocess.run([*away.within, "nft", "-f", "-"], input=FILTER, text=True, check=True)
        enter(server)
        wrong = trio.run(run, here, (server, away, near), (jobs, cuts, pairs, seed))
    for line in wrong:
        click.echo(line)
    sys.exit(1 if wrong else 0)


def enter(host: Host) -> None:
    """Be on a host from now on, with all threads and processes that begin later."""
    pid = host.within[host.within.index("-t") + 1]
    with open(f"/proc/{pid}/ns/net", "rb") as network:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(network.fileno(), _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def run(here: Place, found: tuple[Host, Host, Host], how_many: tuple[int, int, int, int]) -> list[str]:
    (server, away, near), (jobs, cuts, pairs, seed) = found, how_many
    data = str(here.directory / "near")
    here.start(
        *("node", "--host", near.address, "--data", data, "--slots", SLOTS),
        name="near",
        environment={"SERVERS": server.address},
        command=[*near.within, *COMMAND],
    )
    made = here.server(config=CONFIG.format(near=near.address), HOST="0.0.0.0", OPEN_LOCAL="1")
    url = f"http://{server.address}:{made.port}"
    async with portal(f"http://127.0.0.1:{made.port}") as user:
        token = here.directory / "token"
        answer = await user.http.post("/v1/tokens", json={"role": "node", "services": ["away"]})
        token.write_text(answer.json()["secret"])
        here.begin(
            *("node", "--join", url, "--join-services", "away", "--token-file", str(token), "--dial-out"),
            *("--data", str(here.directory / "away"), "--slots", SLOTS),
            name="away",
            command=[*away.within, *COMMAND],
        )
        for service in ("away", "near"):
            await user.run("true", service=service)
        wrong = is_open(away)
        marks = here.directory / "marks"
        wrong += await run_while_cut(marks, user, away, jobs, random_times(cuts, seed))
        if pairs:
            await compare(user, pairs)
    return wrong


def is_open(away: Host) -> list[str]:
    """What is wrong with the filter: a connection from the server's host is to be dropped, and counted."""
    probe = subprocess.run(
        ["curl", "-sS", "--connect-timeout", "2", f"http://{away.address}:9000/health"],
        capture_output=True,
        text=True,
        check=False,
    )
    rules = away.run("nft", "list", "table", "inet", "shut")
    if probe.returncode != 28 or "counter packets 0 " in rules:
        return [f"the filter lets connections in: curl ends with {probe.returncode}, {rules}"]
    return []


def random_times(cuts: int, seed: int) -> Sequence[float]:
    rng = random.Random(seed)
    return [rng.uniform(0.05, 0.5) for _ in range(cuts)]


async def run_while_cut(marks: Path, user: Portal, away: Host, jobs: int, cuts: Sequence[float]) -> list[str]:
    """`cuts`: seconds from one to the next."""
    began, over, closed = time.monotonic(), trio.Event(), 0

    async def cut() -> None:
        nonlocal closed
        for pause in cuts:
            await trio.sleep(pause)
            # All that the node has open ends at once, amid whatever is under way.
            said = await trio.to_thread.run_sync(away.run, "ss", "-HKt4n", "state", "established")
            closed += len(said.splitlines())
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        sent: list[int] = []
        while len(sent) < jobs or not over.is_set():
            script = f"echo $ORCHESTRATOR_JOB_ID >> {marks}; sleep 0.0$((RANDOM % 10)); echo done > done.txt"
            sent.append(await user.upload(script, service="away", user=len(sent) % 4))
            if len(sent) >= jobs:
                await trio.sleep(0.2)
    wrong = []
    for job in sent:
        row = await user.ended(job, within=300)
        if row["status"] != "Completed" or (await user.contents(job))["done.txt"] != b"done\n":
            wrong.append(f"job {job}: {row['status']} {row['message']}")
    wrong += often_begun(marks, sent)
    click.echo(
        f"{len(sent)} jobs, {len(cuts)} cuts of {closed} connections, nobody let in: "
        f"{time.monotonic() - began:.1f} s, {len(wrong)} wrong"
    )
    return wrong


def often_begun(marks: Path, sent: Sequence[int]) -> list[str]:
    begun = Counter(marks.read_text().split())
    return [f"job {job} was begun {begun[str(job)]} times" for job in sent if begun[str(job)] != 1]


async def compare(user: Portal, pairs: int) -> None:
    taken: dict[str, list[float]] = {"away": [], "near": []}
    for number in range(2 * pairs):
        service = ("away", "near", "near", "away")[number % 4]
        began = time.perf_counter()
        await user.run("true", service=service)
        taken[service].append(time.perf_counter() - began)
    away, near = (1000 * statistics.median(taken[service]) for service in ("away", "near"))
    click.echo(
        f"{pairs} pairs, upload to end, medians: {away:.2f} ms by a node that dials out, {near:.2f} by one "
        f"that is dialled, ratio {away / near:.2f}"
    )


if __name__ == "__main__":
    main()
