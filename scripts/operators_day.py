"""A day of an operator: scripts/operators_day.py [--from COMMIT] [--jobs N] [--pause SECONDS] [--keep]

With what is given out: an earlier version is built from this repository, and its wheel installed into an
environment of its own.
A server and two nodes are started as their units of systemd have it; jobs are sent, metrics read, an alert
fires and clears. A backup is made under load, and while jobs run all are upgraded to this version: one node
before the server, one after it. Then a quota is changed under load, and the server is killed, restored
elsewhere, checked and gone on with. What differs ends the day with status 1 and what it was.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import click
import psutil
from testbed.packages import PackagingFailed, build, build_commit, find, find_earlier, install
from testbed.units import PATIENCE, Running, UnitFailed, read_unit

from orchestrator.client import Client, ClientError, Job, Retries

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
SERVICE = "example"
EARLY = "early"
"""A service whose node is upgraded before the server; that of the other is after it."""
NODES = {SERVICE: "orchestrator-node", EARLY: "early-node"}
LARGE = 100_000
"""Bytes that no ledger keeps: they are files."""
WORK = 'cat input > output; head -c 100000 /dev/zero >> output; echo "job $ORCHESTRATOR_JOB_ID"'


class DayFailed(Exception):
    """Something is not as it was promised."""


def expect(held: bool, what: str) -> None:
    if not held:
        raise DayFailed(what)


@dataclass
class Machine:
    """Where a server and a node are installed and keep their things."""

    root: Path
    commands: Path
    port: int = 0
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def data(self) -> Path:
        return self.root / "lib" / "orchestrator"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self, name: str, text: str) -> None:
        self.etc.mkdir(parents=True, exist_ok=True)
        (self.etc / name).write_text(text, encoding="utf-8")

    def start(self, name: str) -> None:
        """The server, or the node of that name: each node has the unit of nodes, with places of its own."""
        unit = "orchestrator" if name == "orchestrator" else "orchestrator-node"
        places = {
            "/opt/orchestrator/bin": self.commands,
            "/etc/orchestrator": self.etc,
            "/etc/orchestrator/node.toml": self.etc / f"{name}.toml",
            "/etc/orchestrator/node.env": self.etc / f"{name}.env",
            "/var/lib/orchestrator": self.data,
            "/var/lib/orchestrator-node": self.root / "lib" / name,
            "/var/lib": self.root / "lib",
        }
        log = self.root / f"{name}.log"
        self.running[name] = Running(
            read_unit(f"{unit}.service", places), log, {"XDG_STATE_HOME": str(self.root / "state")}
        )
        if name == "orchestrator":
            self.port = int(log.read_text().rpartition("listening on ")[2].split()[0].rpartition(":")[2])

    def upgrade(self, name: str, commands: Path) -> None:
        """As somebody does who has installed what is there, and restarts the unit."""
        self.commands = commands
        self.running[name].stop()
        self.start(name)

    @property
    def schema(self) -> int:
        """That of the ledger."""
        with closing(sqlite3.connect(self.data / "db.sqlite")) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])

    def command(self, *arguments: str, status: int = 0) -> str:
        """What a command of the installed package prints. Raises DayFailed for another status."""
        variables = {"DB_PATH": str(self.data / "db.sqlite"), "DATA_PATH": str(self.data / "data")}
        done = subprocess.run(
            [self.commands / "orchestrator", *arguments],
            env={"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(self.root / "state"), **variables},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
        said = f"{done.stdout}{done.stderr}"
        expect(
            done.returncode == status, f"orchestrator {' '.join(arguments)}: status {done.returncode}\n{said}"
        )
        return done.stdout

    def client(self) -> Client:
        token = (self.data / "data" / "operator.token").read_text().rpartition(" ")[2].strip()
        # A server that is started again on a busy machine is away for longer than some tries.
        return Client(self.url, token=token, retries=Retries(tries=15))


class Day:
    def __init__(self, root: Path, jobs: int, pause: float, earlier: str | None) -> None:
        """`jobs` of the load, with `pause` seconds between two. `earlier`: the commit to upgrade from; None:
        this tree itself."""
        self.root = root
        self.jobs = jobs
        self.pause = pause
        self.earlier = earlier
        self.began = time.monotonic()
        self.gates = root / "gates"
        self.gates.mkdir(mode=0o755)

    def tell(self, line: str) -> None:
        click.echo(f"{time.monotonic() - self.began:6.1f} s  {line}")

    def spend(self) -> None:
        build(self.root / "dist")
        this = find(self.root / "dist", "job_orchestrator-*.whl")
        earlier, which = this, "of this tree, for the clone has no earlier one,"
        if self.earlier is not None:
            earlier, which = build_commit(self.earlier, self.root / "earlier"), f"of {self.earlier}"
        machine = Machine(self.root / "first", install(earlier, self.root / "venv"))
        self.tell(f"installed {machine.command('--version').strip()} {which} from its wheel")
        try:
            self._morning(machine)
            self._upgrade(machine, this)
            self._noon(machine)
            self._evening(machine)
        finally:
            for running in machine.running.values():
                running.kill()

    # ------------------------------------------------------------------ start, scrape, an alert

    def _morning(self, machine: Machine) -> None:
        self._configure(machine, runs_per_user=2)
        machine.start("orchestrator")
        reader = machine.command("token", "create", "--role", "reader", "--url", machine.url).strip()
        self._configure(machine, runs_per_user=2)  # the port is settled
        for service, node in NODES.items():
            token = machine.command(
                "token", "create", "--role", "node", "--service", service, "--url", machine.url
            ).strip()
            machine.configure(f"{node}.env", f"ORCHESTRATOR_TOKEN={token}\n")
            machine.configure(
                f"{node}.toml",
                f'port = 0\njoin = "{machine.url}"\njoin_services = ["{service}"]\nslots = 8\n'
                f'read = ["{self.gates}"]\n',
            )
        self.tell("the server is ready, with tokens for its nodes and for Prometheus")
        waits = f'orchestrator_queue_waits{{reason="no_node",service="{SERVICE}"}}'
        seen = [scrape(machine, reader).get(waits, 0.0)]
        with machine.client() as client:
            first = client.submit({"run.sh": WORK.encode(), "input": b"1"}, service=SERVICE, user=1)
            seen.append(scrape(machine, reader).get(waits, 0.0))
            machine.start(NODES[SERVICE])
            expect(client.wait(first.id, PATIENCE).status == "Completed", "the first job did not complete")
        seen.append(scrape(machine, reader).get(waits, 0.0))
        expect(seen == [0.0, 1.0, 0.0], f"{waits} was {seen}")
        self.tell("a job without a node was told in the metrics; with a node it was done")
        self._judge_alert(seen)

    def _configure(self, machine: Machine, runs_per_user: int) -> None:
        services = (f"[services.{name}]\nruns_per_user = {runs_per_user}\nmax_runs = 8\n" for name in NODES)
        machine.configure("server.toml", f"port = {machine.port}\n{''.join(services)}")

    def _judge_alert(self, seen: Sequence[float]) -> None:
        """Whether the alert rules fire and clear for what was scraped, if each had lasted for ten minutes."""
        beside = shutil.which("promtool", path=str(Path(sys.executable).parent))
        promtool = shutil.which("promtool") or beside
        if promtool is None:
            self.tell("no promtool: the alert was not tried (scripts/setup --dev brings it)")
            return
        labels = {"severity": "critical", "instance": "day", "service": SERVICE, "reason": "no_node"}
        summary = f"jobs of {SERVICE} wait, and no node takes them"
        fires = [{"exp_labels": labels, "exp_annotations": {"summary": summary}}]
        series = f'orchestrator_queue_waits{{instance="day",service="{SERVICE}",reason="no_node"}}'
        case = {
            "rule_files": [str(ALERTS)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [
                        {"series": series, "values": " ".join(f"{value:g}x9" for value in seen)}
                    ],
                    "alert_rule_test": [
                        {"eval_time": at, "alertname": "OrchestratorNoNode", "exp_alerts": alerts}
                        for at, alerts in (("9m", []), ("19m", fires), ("29m", []))
                    ],
                }
            ],
        }
        (self.root / "alert.yaml").write_text(json.dumps(case))
        done = subprocess.run(
            [promtool, "test", "rules", str(self.root / "alert.yaml")],
            capture_output=True,
            text=True,
            check=False,
        )
        expect(done.returncode == 0, f"the alert: {done.stdout}{done.stderr}")
        self.tell("its alert fires, and clears")

    # ------------------------------------------------------------------ upgrade, quota, backup under load

    def _upgrade(self, machine: Machine, wheel: Path) -> None:
        before = machine.schema
        machine.start(NODES[EARLY])
        with machine.client() as client, self._load(machine) as sent:
            held = [self._submit_held(client, "upgrade", service) for service in NODES]
            machine.command("backup", str(self.root / "backup"))
            self.tell("a backup was made under load")
            commands = install(wheel, self.root / "upgraded")
            for user, name in enumerate((NODES[EARLY], "orchestrator", NODES[SERVICE]), 10):
                machine.upgrade(name, commands)
                # Whoever is upgraded already works with whoever is not yet.
                held += [self._submit_held(client, "upgrade", service, user) for service in NODES]
                sent += [self._run_one(client, service) for service in NODES]
            self.tell(
                f"from schema {before} to {machine.schema}: "
                "a node, the server and the other node were upgraded under load"
            )
            (self.gates / "upgrade").touch()
            until(
                lambda: len(sent) >= self.jobs,
                "the load did not go on after the upgrade",
                seconds=10 * self.jobs,
            )
        self._judge(machine, [*held, *sent])

    def _judge(self, machine: Machine, jobs: Sequence[int]) -> None:
        """Raises DayFailed unless each has completed in its first attempt."""
        with machine.client() as client:
            for number in jobs:
                job = client.wait(number, PATIENCE)
                expect(job.status == "Completed", f"job {number} is {job.status}: {job.message}")
                expect(job.attempts_used == 1, f"job {number} took {job.attempts_used} attempts")
        self.tell(f"none of {len(jobs)} jobs noticed anything: each took one attempt")

    def _noon(self, machine: Machine) -> None:
        with machine.client() as client, self._load(machine):
            self._configure(machine, runs_per_user=3)
            machine.running["orchestrator"].reload()
            until(
                lambda: client.services()[0].runs_per_user == 3, "the quota is not the new one after a reload"
            )
            self.tell("a quota was changed under load")
            machine.configure("server.toml", f"port = {machine.port}\nmax_ages = 1\n")
            refused(machine.running["orchestrator"].reload, "there is no such setting")
            self._configure(machine, runs_per_user=3)
            expect(client.services()[0].runs_per_user == 3, "a mistake in the settings changed something")

    def _run_one(self, client: Client, service: str) -> int:
        job = client.submit({"run.sh": WORK.encode(), "input": b"one"}, service=service, user=8)
        client.wait(job.id, PATIENCE)
        return job.id

    def _submit_held(self, client: Client, gate: str, service: str = SERVICE, user: int = 9) -> int:
        """A job that runs until its gate is there."""
        script = f"until [ -e {self.gates / gate} ]; do sleep 0.2; done; {WORK}"
        job = client.submit({"run.sh": script.encode(), "input": b"held"}, service=service, user=user)
        until(lambda: client.job(job.id).status == "Running", f"job {job.id} does not run")
        return job.id

    @contextmanager
    def _load(self, machine: Machine) -> Iterator[list[int]]:
        """A portal that sends one job after another, and goes on sending over a restart of the server."""
        sent: list[int] = []
        over = threading.Event()
        failed: list[ClientError] = []

        def send() -> None:
            try:
                with machine.client() as client:
                    while not over.is_set():
                        size = LARGE if len(sent) % 2 else 10
                        files = {"run.sh": WORK.encode(), "input": b"x" * size}
                        job = client.submit(files, service=SERVICE, user=len(sent) % 3 + 1)
                        sent.append(job.id)
                        client.wait(job.id, PATIENCE)
                        over.wait(self.pause)
            except ClientError as error:
                failed.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield sent
        finally:
            over.set()
            thread.join()
        expect(not failed, f"the portal was refused: {failed}")

    # ------------------------------------------------------------------ killed, restored elsewhere

    def _evening(self, machine: Machine) -> None:
        with machine.client() as client:
            running = self._submit_held(client, "restore")
            before = rows(client)
            contents = self._contents(client, before)
        machine.command("backup", str(self.root / "backup"))
        server = machine.running["orchestrator"]
        server.process.send_signal(signal.SIGKILL)
        server.kill()
        self.tell("the server was killed")
        other = Machine(self.root / "second", machine.commands, machine.port)
        other.data.mkdir(parents=True)
        other.command("restore", str(self.root / "backup"))
        told = other.command("check", "--contents")
        expect(told == "ledger and files fit\n", f"check: {told}")
        self._configure(other, runs_per_user=3)
        other.start("orchestrator")
        machine.running["orchestrator"] = other.running["orchestrator"]
        with other.client() as client:
            after = rows(client)
            for number, job in before.items():
                expect(number in after, f"job {number} is not there any more")
                if number != running:
                    expect(after[number] == job, f"job {number} was {job}\nand is {after[number]}")
            expect(set(after) == set(before), f"there are others: {set(after) - set(before)}")
            expect(self._contents(client, before) == contents, "results differ")
            self.tell(f"restored elsewhere: {len(before)} jobs and their results are the same")
            (self.gates / "restore").touch()
            job = client.wait(running, PATIENCE)
            expect((job.status, job.attempts_used) == ("Completed", 1), f"what ran meanwhile: {job}")
            last = client.submit({"run.sh": WORK.encode(), "input": b"1"}, service=SERVICE, user=1)
            expect(last.id > max(before), "an id was given again")
            expect(
                client.wait(last.id, PATIENCE).status == "Completed",
                "a job after the restore did not complete",
            )
        self.tell("what ran meanwhile has ended in its first attempt, and new jobs run")
        for running_unit in machine.running.values():
            running_unit.stop()

    def _contents(self, client: Client, jobs: Mapping[int, Job]) -> dict[int, bytes]:
        """What the jobs that have ended have left as `output`."""
        found = {}
        for number, job in jobs.items():
            if job.status == "Completed":
                target = self.root / "output"
                client.download_file(number, "output", target, resume=False)
                found[number] = target.read_bytes()
        return found


def rows(client: Client) -> dict[int, Job]:
    return {job.id: job for job in client.jobs()}


def scrape(machine: Machine, token: str) -> dict[str, float]:
    """Each series of /metrics with its value."""
    request = Request(f"{machine.url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with build_opener(ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def until(held: Callable[[], bool], what: str, seconds: float = 0.0) -> None:
    """Wait until it holds, so many seconds more than anything may take. Raises DayFailed."""
    deadline = time.monotonic() + PATIENCE + seconds
    while not held():
        expect(time.monotonic() < deadline, what)
        time.sleep(0.1)


def refused(order: Callable[[], Any], why: str) -> None:
    try:
        order()
    except UnitFailed as error:
        expect(why in str(error), f"it was refused for another reason: {error}")
    else:
        raise DayFailed(f"it was not refused, though {why}")


def end_what_is_left(root: Path) -> None:
    """Everything that was started there."""
    for process in psutil.process_iter():
        try:
            if any(f"{root}/" in part for part in process.cmdline()):
                process.kill()
        except psutil.Error:
            continue  # it has ended by itself, or is somebody else's


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option(
    "--jobs", type=click.IntRange(3, 10_000), default=60, show_default=True, help="Jobs of the load."
)
@click.option(
    "--pause", type=click.FloatRange(0), default=0.0, show_default=True, help="Seconds between two of them."
)
@click.option(
    "--from",
    "earlier",
    help="Commit or tag to upgrade from, else the newest tag of a version, "
    "else the first commit of this version, else this tree.",
)
@click.option("--keep", is_flag=True, help="Leave the directory of the day, and say where it is.")
def main(jobs: int, pause: float, earlier: str | None, keep: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="orchestrator-day-"))
    root.chmod(0o711)  # jobs have users of their own
    try:
        day = Day(root, jobs, pause, earlier or find_earlier())
        day.spend()
        day.tell("no difference")
    except (DayFailed, UnitFailed, PackagingFailed, ClientError) as error:
        click.echo(f"scripts/operators_day.py: {error}", err=True)
        sys.exit(1)
    finally:
        end_what_is_left(root)
        if keep:
            click.echo(root)
        else:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
