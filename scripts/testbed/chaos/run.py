"""One chaos run, from the first process to the last."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import trio

from testbed.chaos.after import (
    Kept,
    Ledger,
    directory_of,
    job_directories,
    left_at_server,
    left_on_nodes,
    processes_left,
    read_ledger,
)
from testbed.chaos.damage import OF_A_NODE, OF_THE_SERVER, tear
from testbed.chaos.diary import Diary, Span
from testbed.chaos.disks import Disks
from testbed.chaos.faults import SERVER, Fault, What
from testbed.chaos.jobs import ChaosJob, Kind
from testbed.chaos.judging import Seen
from testbed.chaos.machines import Machine
from testbed.chaos.network import Network
from testbed.chaos.users import Front, Outcome, User
from testbed.cluster import ClusterFailed, Limits, Member, belonging, server_toml, start
from testbed.portal import ENDED

RELIEF: Final = 5.0
"""Seconds in which whoever was short of something works again."""
GRACE: Final = 1.5
"""Seconds that a node gives its jobs to end."""
UPLOAD_PATIENCE: Final = 3.0
"""Seconds that a fault waits for the upload that it is to hit."""
SETTLING: Final = 30.0
"""Seconds from the last job's end until nothing more is owed to anybody."""
LOOK_AGAIN: Final = 0.1
ORPHAN_AGE: Final = 7200.0
"""Seconds; what is older and belongs to no job is swept at a start."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is run. `patience` are the seconds that all jobs may take to end when the faults are over."""

    directory: Path
    nodes: int
    slots: int
    limits: Limits
    node_lost_after: float
    seed: int
    patience: float

    @property
    def db_path(self) -> Path:
        return self.machine_directory(SERVER) / "db.sqlite"

    @property
    def data(self) -> Path:
        return self.machine_directory(SERVER) / "data"

    @property
    def node_directories(self) -> list[Path]:
        return [self.machine_directory(node) for node in range(1, self.nodes + 1)]

    def machine_directory(self, target: int) -> Path:
        """Where all that it writes is."""
        return self.directory / ("server" if target == SERVER else f"node-{target}")


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of what has happened."""

    ended: Callable[[], None]
    struck: Callable[[], None]
    says: Callable[[str], None]


class Run:
    """See the module; `chaos` once."""

    def __init__(
        self,
        setting: Setting,
        network: Network,
        jobs: Sequence[ChaosJob],
        faults: Sequence[Fault],
        watch: Watch,
        *,
        disks: Disks | None,
    ) -> None:
        self._setting = setting
        self._network = network
        self._disks = disks
        self._faults = faults
        self._watch = watch
        self.diary = Diary(setting.directory / "diary.log")
        self._outcomes = [Outcome(job) for job in jobs]
        self._front = Front()
        self._machines = [self._server(), *map(self._node, range(1, setting.nodes + 1))]

    async def chaos(self) -> Seen:
        """Start all, do all that is planned, and tell what there was in the end. Nothing runs afterwards,
        whatever happens."""
        for name in ("marks", "alive", "locks"):
            (self._setting.directory / name).mkdir()
        self._setting.db_path.parent.mkdir(exist_ok=True)
        config = self._setting.directory / "server.toml"
        urls = [self._network.url(node) for node in range(1, self._setting.nodes + 1)]
        extra = {"node_lost_after": self._setting.node_lost_after}
        config.write_text(server_toml(self._setting.limits, urls, extra))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._network.run)
                for machine in self._machines:
                    nursery.start_soon(machine.keep)
                for machine in self._machines:
                    await machine.up()
                await self._storm()
                self._watch.says("settling")
                await self._settle()
                wanted = {machine.pid for machine in self._machines}
                wanted.update(pid for machine in self._machines for pid in machine.spawners())
                processes = processes_left(self._setting.directory, wanted)
                nursery.cancel_scope.cancel()
            return self._look(processes)
        finally:
            self._end_all()

    # ------------------------------------------------------------------ machines

    def _server(self) -> Machine:
        setting = self._setting
        arguments = ["server", "--config", str(setting.directory / "server.toml")]
        environ = {"PORT": "0", "DB_PATH": str(setting.db_path), "DATA_PATH": str(setting.data)}

        def launch() -> Member:
            return start("server", arguments, environ, setting.directory)

        return Machine("server", self.diary, launch, self._front.is_up, self._front.is_down)

    def _node(self, node: int) -> Machine:
        setting, place, name = self._setting, self._network.place(node), f"node-{node}"
        arguments = ["node", "--slots", str(setting.slots), "--grace", str(GRACE), *place.arguments]
        environ = {"DATA_PATH": str(setting.machine_directory(node))}

        def launch() -> Member:
            return start(name, arguments, environ, setting.directory, within=place.within)

        return Machine(
            name,
            self.diary,
            launch,
            lambda url: self._network.node_up(node, url),
            lambda: self._network.node_down(node),
        )

    # ------------------------------------------------------------------ the storm

    async def _storm(self) -> None:
        """All faults and all jobs; returns when the faults are over, and all jobs are or patience is."""
        began = trio.current_time()
        users = []
        for number in sorted({outcome.job.user for outcome in self._outcomes}):
            mine = [outcome for outcome in self._outcomes if outcome.job.user == number]
            users.append(User(mine, self._front, self._setting.directory, self.diary, self._setting.seed))
        async with trio.open_nursery() as nursery:
            for user in users:
                nursery.start_soon(user.run, began, self._watch.ended)
            async with trio.open_nursery() as storm:
                for fault in self._faults:
                    storm.start_soon(self._strike, fault, began)
            self.diary.note("the last fault is over")
            for machine in self._machines:
                await machine.up()
            nursery.start_soon(self._end_unanswered)
            nursery.cancel_scope.deadline = trio.current_time() + self._setting.patience

    async def _strike(self, fault: Fault, began: float) -> None:
        await trio.sleep_until(began + fault.at)
        machine = self._machines[fault.target]
        match fault.what:
            case What.KILL | What.KILL_AT_UPLOAD:
                if fault.what is What.KILL_AT_UPLOAD:
                    with trio.move_on_after(UPLOAD_PATIENCE):
                        await self._front.next_upload()
                    await trio.sleep(fault.delay)
                while not machine.kill(fault.seconds):
                    await machine.next_life()
            case What.TEAR:
                while not machine.kill(fault.seconds, partial(self._tear, fault, machine)):
                    await machine.next_life()
            case What.INODES:
                assert self._disks is not None
                since = time.time()
                if await self._disks.use_up(self._setting.machine_directory(fault.target), fault.seconds):
                    self.diary.short[machine.name].append(Span(since, time.time()))
                    await self._relieve(fault, machine)
            case What.DESCRIPTORS:
                while not await machine.starve(fault.seconds):
                    await machine.next_life()
                await self._relieve(fault, machine)
            case What.STOP:
                await machine.freeze(fault.seconds)
            case What.SPAWNER:
                await machine.up()  # a node whose first spawner is killed says so and ends, as it should
                machine.kill_spawner()
            case What.CUT:
                self.diary.away(machine.name, fault.mode)
                try:
                    await self._network.fail(fault.target, fault.mode, fault.seconds)
                finally:
                    self.diary.back(machine.name, fault.mode)
        self.diary.done += 1
        self._watch.struck()

    async def _relieve(self, fault: Fault, machine: Machine) -> None:
        self.diary.note(f"{machine.name}: had {fault.what} for {fault.seconds:.2f} s")
        self.diary.struck[fault.what] += 1
        if not await machine.answers_again(RELIEF):
            self.diary.wrong(f"{machine.name} does not answer {RELIEF:.0f} s after it had {fault.what}")

    def _tear(self, fault: Fault, machine: Machine) -> None:
        place = self._setting.machine_directory(fault.target)
        kinds = OF_THE_SERVER if fault.target == SERVER else OF_A_NODE
        torn = tear(place, kinds, fault.mode, random.Random(f"{self._setting.seed}/{fault.at}"))
        if torn is not None:
            self.diary.note(f"{machine.name}: {torn.path} {torn.way}")
            self.diary.struck[f"{torn.kind} {torn.way}"] += 1
            if torn.key:
                self.diary.torn[torn.key].append(f"{torn.kind} {torn.way}")

    async def _end_unanswered(self) -> None:
        """A job whose upload was not answered may be there, and nobody knows to ask for its end."""
        outcomes = {outcome.job.serial: outcome for outcome in self._outcomes}
        known = {outcome.number for outcome in self._outcomes}
        kept = Kept(self._setting.db_path, self._setting.data)
        for row in read_ledger(self._setting.db_path).rows.values():
            if row.number in known or row.status in ENDED:
                continue
            serial = kept.serial(row.storage_key)
            outcome = outcomes.get(-1 if serial is None else serial)
            if outcome is not None and outcome.number is None and outcome.job.kind is Kind.TERMINATED:
                one = Outcome(outcome.job, row.number)
                user = User([one], self._front, self._setting.directory, self.diary, self._setting.seed)
                await user.ask_for_end_once(one)

    async def _settle(self) -> None:
        """Until every job is over and nothing is owed any more, or until that has taken too long."""
        with trio.move_on_after(SETTLING):
            while not self._settled():  # noqa: ASYNC110  (of files on disk and rows nobody tells)
                await trio.sleep(LOOK_AGAIN)

    def _settled(self) -> bool:
        ledger = read_ledger(self._setting.db_path)
        if ledger.owed or any(row.status not in ENDED for row in ledger.rows.values()):
            return False
        return not left_on_nodes(self._setting.node_directories)

    # ------------------------------------------------------------------ afterwards

    def _look(self, processes: Sequence[str]) -> Seen:
        setting = self._setting
        on_nodes = left_on_nodes(self._setting.node_directories)
        for machine in self._machines:
            try:
                machine.end()
            except ClusterFailed as error:
                self.diary.wrong(str(error))
        ledger = read_ledger(setting.db_path)
        self._sweep(ledger)
        names = {}
        for directory in setting.node_directories:
            names[json.loads((directory / "node.json").read_text())["node_id"]] = directory.name
        return Seen(
            outcomes=self._outcomes,
            ledger=ledger,
            directory=setting.directory,
            data=setting.data,
            db_path=setting.db_path,
            limits=setting.limits,
            diary=self.diary,
            node_names=names,
            node_lost_after=setting.node_lost_after,
            processes=[*processes, *processes_left(setting.directory, ())],
            on_nodes=on_nodes,
            at_server=left_at_server(setting.data),
            planned={fault.what for fault in self._faults},
        )

    def _sweep(self, ledger: Ledger) -> None:
        """A kill between the rename of an upload and its row leaves a directory, which is swept at a later
        start, when it is old enough. So it is made old, and the orchestrator is started once more."""
        orphans = job_directories(self._setting.data) - {row.storage_key for row in ledger.rows.values()}
        if not orphans:
            return
        self.diary.note(f"directories without a job, to be swept: {', '.join(sorted(orphans))}")
        old = time.time() - ORPHAN_AGE
        for key in orphans:
            os.utime(directory_of(self._setting.data, key), (old, old))
        server = self._machines[SERVER]
        deadline = time.monotonic() + SETTLING
        try:
            server.begin()
            while job_directories(self._setting.data) & orphans and time.monotonic() < deadline:
                time.sleep(LOOK_AGAIN)
            server.end()
        except ClusterFailed as error:
            self.diary.wrong(str(error))

    def _end_all(self) -> None:
        """By force, whatever is still there."""
        for process in belonging(self._setting.directory):
            with suppress(psutil.Error):
                process.kill()
        for machine in self._machines:
            if machine.member is not None:
                machine.member.process.wait()
