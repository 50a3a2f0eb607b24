"""The provider `local`: a machine is a node process on this one.

The directory has one directory for each machine, named by its token: what process it is and whose, its log,
its node's data. Processes outlive the orchestrator, and the next one finds them there. The directory belongs
to one orchestrator at a time; what another one has left in it is told as its, and let be.

The record of a process may be damaged: then the process is found by what it was started with, the path of its
data.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from actors.domain.ids import is_key
from actors.domain.scaling import Machine, UnreadableMachine
from actors.ports.scaling import ProviderError
from actors.process import procfs
from actors.process.identity import ProcessIdentity, end_child, identify
from actors.store.kept_file import read_object
from actors.store.repair import set_aside
from orchestrator.nodes.local_process import (
    GRACE_SECONDS,
    last_words,
    read_url,
    release,
    start_bound,
    start_held,
)

log: Final = logging.getLogger("orchestrator.scaling.local")

DEADLINE: Final = 60.0
"""Seconds for a call, everything included."""
_PROCESS: Final = "process.json"
_LONGEST_RECORD: Final = 4096
_LOG: Final = "node.log"
_DATA: Final = "node"


def joining(join_url: str, service: str, token: str, ca_file: Path | None = None) -> Sequence[str]:
    """The options of a node that make it join."""
    believed = [] if ca_file is None else ["--ca-file", str(ca_file)]
    return ["--join", join_url, "--join-services", service, "--machine", token, *believed]


class LocalProvider:
    """Implements `Provider`. A machine's id is its token; `owner` stands in its record.

    `directory` is created when it is needed. `slots`: of a node, by service. `join_url` waits until
    the orchestrator listens and tells where nodes join it; `joining` makes options of it, service and token.
    `node_token` lets them in there.
    """

    name = "local"

    def __init__(
        self,
        directory: Path,
        *,
        slots: Mapping[str, int],
        join_url: Callable[[], Awaitable[str]],
        owner: str,
        joining: Callable[[str, str, str], Sequence[str]] = joining,
        node_token: str | None = None,
    ) -> None:
        self._directory = directory
        self._slots = slots
        self._join_url = join_url
        self.owner = owner
        self._joining = joining
        self._node_token = node_token
        self._children: list[subprocess.Popen[bytes]] = []
        # One call at a time: none finds a machine that another one is half-way through making or removing.
        self._turn = trio.Lock()

    async def create(self, token: str, service: str) -> Machine:
        """A node process for `service`, or the one that this token has already."""
        if not is_key(token):
            raise ProviderError(f"no token of a machine: {token!r}", certain=True)
        join_url = await self._join_url()
        async with self._call("start a node"):
            home = self._directory / token
            match self._find(home):
                case Machine() as known:
                    return known
                case UnreadableMachine(text=text):
                    raise ProviderError(text, certain=True)
            await self._remove(home)
            return self._start(home, token, service, join_url)

    async def list(self) -> Sequence[Machine | UnreadableMachine]:
        """Those whose process lives, and what is another's. What is left of the others is removed."""
        async with self._call("look for nodes"):
            living = []
            for home in self._homes():
                known = self._find(home)
                if known is not None:
                    living.append(known)
                else:
                    await self._remove(home)
            return living

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        """SIGTERM, some time for the jobs' ends, SIGKILL; then all that the node kept is removed."""
        wanted, failed = set(machine_ids), []

        async def end_one(home: Path) -> None:
            try:
                await self._end(home)
            except (OSError, ProviderError) as error:
                failed.append(error)

        async with self._call("end nodes"):
            async with trio.open_nursery() as nursery:
                for home in self._homes():
                    if home.name in wanted:
                        nursery.start_soon(end_one, home)
            if failed:
                raise failed[0]

    async def end_all(self) -> None:
        """For an orchestrator that ends in order and shall leave nothing behind."""
        told = [one for one in await self.list() if isinstance(one, Machine)]
        await self.terminate([machine.machine_id for machine in told if machine.owner == self.owner])

    # ------------------------------------------------------------------ one machine

    def _start(self, home: Path, token: str, service: str, join_url: str) -> Machine:
        home.mkdir(parents=True)
        options = ["--host", "127.0.0.1", "--port", "0", "--data", str(home / _DATA)]
        options += [
            "--slots",
            str(self._slots.get(service, 1)),
            "--on-stop",
            "kill",
            "--grace",
            str(GRACE_SECONDS),
        ]
        options += self._joining(join_url, service, token)
        with (home / _LOG).open("ab") as output:
            process = start_held(options, output, self._node_token)
        self._children.append(process)
        assert process.stdin is not None
        with process.stdin:
            started = identify(process.pid)
            if started is None:
                raise ProviderError(f"the node ended at once: {last_words(home / _LOG)}", certain=True)
            # Whole or not at all; nothing runs before it is there.
            half = home / f"{_PROCESS}.new"
            half.write_text(
                json.dumps({"token": token, "service": service, "owner": self.owner, **asdict(started)})
            )
            os.replace(half, home / _PROCESS)
            release(process)
        return Machine(token, token, service, running=True, owner=self.owner)

    async def _end(self, home: Path) -> None:
        found = _read_record(home)
        if found is not None and found[1].owner != self.owner:
            raise ProviderError(f"{home} is of another orchestrator", certain=True)
        process = found[0] if found is not None else _search(home)
        if process is None or not await process.end():
            await self._end_jobs(home)
        await _delete(home)

    async def _remove(self, home: Path) -> None:
        """What a node left that is gone without having been told to."""
        left = self._list_leftovers(home)
        set_aside(home / _LOG)
        if _LOG in left:
            log.error("the node of machine %s ended by itself: %s", home.name, last_words(home / _LOG))
        await self._end_jobs(home)
        await _delete(home)

    async def _end_jobs(self, home: Path) -> None:
        """End the jobs of a node that was killed and could not: they run on. A node on the same data finds
        them, and ends them when it is told to end itself."""
        if _DATA not in self._list_leftovers(home):
            return
        options = ["--host", "127.0.0.1", "--port", "0", "--data", str(home / _DATA)]
        options += ["--on-stop", "kill", "--grace", str(GRACE_SECONDS)]
        with (home / _LOG).open("ab") as errors, start_bound(options, errors) as process:
            assert process.stdout is not None
            try:
                async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as output:
                    if not await read_url(output):
                        log.error("jobs of machine %s may run on: %s", home.name, last_words(home / _LOG))
            finally:
                with trio.CancelScope(shield=True):
                    await end_child(process)

    def _find(self, home: Path) -> Machine | UnreadableMachine | None:
        """The machine, if it lives or is another's; whose it is cannot be told of one that lives and has no
        record that can be read."""
        found = _read_record(home)
        if found is None:
            text = f"{home / _PROCESS} does not say which process it is and whose, and one lives"
            return None if _search(home) is None else UnreadableMachine(text)
        process, machine = found
        return machine if machine.owner != self.owner or process.lives() else None

    def _list_leftovers(self, home: Path) -> Sequence[str]:
        try:
            return os.listdir(home)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _homes(self) -> Sequence[Path]:
        try:
            return sorted(home for home in self._directory.iterdir() if is_key(home.name))
        except FileNotFoundError:
            return []

    @asynccontextmanager
    async def _call(self, what: str) -> AsyncIterator[None]:
        """One call: alone, with its deadline, its errors told as the port wants them."""
        try:
            with trio.fail_after(DEADLINE):
                async with self._turn:
                    yield
        except trio.TooSlowError as error:
            raise ProviderError(f"could not {what} within {DEADLINE:.0f} s") from error
        except OSError as error:
            raise ProviderError(f"could not {what}: {error}") from error
        finally:
            # Ended children stay in the kernel's table until they are asked for.
            self._children = [child for child in self._children if child.poll() is None]


_LOOKS: Final = 50
"""At a command line that is empty, though its process has memory."""


async def _delete(home: Path) -> None:
    def delete() -> None:
        with suppress(FileNotFoundError):
            try:
                shutil.rmtree(home)
            except NotADirectoryError:
                home.unlink()

    await trio.to_thread.run_sync(delete)


def _read_record(home: Path) -> tuple[ProcessIdentity, Machine] | None:
    """The process that was started as this machine; None if there is no record that says it. Raises OSError
    when it cannot be looked for: that is no answer."""
    found = read_object(home / _PROCESS, _LONGEST_RECORD)
    # Another's would have its process ended in place of this one's.
    if not isinstance(found, dict) or found.get("token", home.name) != home.name:
        return None
    try:
        process = ProcessIdentity(int(found["pid"]), int(found["started"]), str(found["boot"]))
        service, owner = found["service"], found["owner"]
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    if not (isinstance(service, str) and isinstance(owner, str) and 0 < process.pid < 1 << 31):
        return None
    return process, Machine(home.name, home.name, service, running=True, owner=owner)


def _search(home: Path) -> ProcessIdentity | None:
    """The living node that was started with this machine's data. Raises OSError."""
    wanted = b"\0--data\0" + os.fsencode(home / _DATA) + b"\0"
    for pid in procfs.all_pids():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if wanted in _command_line(pid):
                return identify(pid)
    return None


def _command_line(pid: int) -> bytes:
    """That of a zombie is empty, and for a moment also that of a process that has only just become another
    program. Raises OSError."""
    place = Path(f"/proc/{pid}")
    for _ in range(_LOOKS):
        line = (place / "cmdline").read_bytes()
        if line or (place / "statm").read_bytes().startswith(b"0 "):
            break
        time.sleep(0.001)
    return line
