"""The provider `command`: three commands of the operator's make, list and end machines.

Each is run by `/bin/sh -c`, with ORCHESTRATOR_NAME and ORCHESTRATOR_JOIN_URL in its environment, and for
`create` ORCHESTRATOR_TOKEN, ORCHESTRATOR_SERVICE and ORCHESTRATOR_SLOTS:

- `create` prints one word, the machine's id. Run again with the same token, it prints the same machine's;
- `list` prints a line `ID TOKEN SERVICE OWNER [ADDRESS]` for each machine that is not ended. OWNER is the
  ORCHESTRATOR_NAME that it was made with, as it is written on the machine: only these are ours;
- `terminate` gets ids as its arguments, at its end or where it says `"$@"`; what is gone already is fine.

What they say is taken literally or not at all: a line that cannot be read is told as such, and never as a
machine that is not there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Final

import trio

from actors.domain.ids import is_key
from actors.domain.scaling import Machine, UnreadableMachine
from actors.ports.scaling import ProviderError
from orchestrator.config.scaling import CommandSettings

OUTPUT_MOST: Final = 4 << 20
"""Bytes of output that are read of a command; more is a mistake."""
_ERRORS_KEPT: Final = 4096
_DRAIN_SECONDS: Final = 2.0
"""How long its output may stay open after a command has ended: something that it started has kept it."""
_WORD: Final = re.compile(r"[!-~]{1,256}", re.ASCII)
_ID: Final = re.compile(r"(?!-)[!-~]{1,256}", re.ASCII)
"""What begins with a dash would be taken for an option of `terminate`."""


class CommandProvider:
    """Implements `Provider`. `owner` becomes ORCHESTRATOR_NAME; `slots`: of a node, by service."""

    name = "command"

    def __init__(
        self, commands: CommandSettings, *, slots: Mapping[str, int], join_url: str, owner: str
    ) -> None:
        self._commands = commands
        self._slots = slots
        self.owner = owner
        self._environment = {"ORCHESTRATOR_NAME": owner, "ORCHESTRATOR_JOIN_URL": join_url}

    async def create(self, token: str, service: str) -> Machine:
        more = {
            "ORCHESTRATOR_TOKEN": token,
            "ORCHESTRATOR_SERVICE": service,
            "ORCHESTRATOR_SLOTS": str(self._slots.get(service, 1)),
        }
        read_output = await self._run("create", self._commands.create, more)
        words = read_output.split()
        if len(words) != 1 or not _ID.fullmatch(words[0]):
            raise ProviderError(
                f"create has to print the machine's id and nothing else, and said {read_output!r:.200}"
            )
        return Machine(words[0], token, service, running=True, owner=self.owner)

    async def list(self) -> Sequence[Machine | UnreadableMachine]:
        read_output = await self._run("list", self._commands.list)
        return _without_contradictions([_machine(line) for line in read_output.splitlines() if line.strip()])

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        if machine_ids:
            await self._run("terminate", self._commands.terminate, arguments=machine_ids)

    async def _run(
        self,
        what: str,
        command: str,
        more: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> str:
        """What the command printed. Raises ProviderError unless it ends well and in time."""
        if arguments and not re.search(r"\$[@*]", command):
            command = f'{command} "$@"'
        try:
            process = _start(command, what, arguments, {**self._environment, **(more or {})})
        except (OSError, ValueError) as error:
            raise ProviderError(f"{what} cannot be run: {error}", certain=True) from error
        run = _CommandRun(what, process)
        with process:
            ended = await run.finish(self._commands.deadline)
        if not ended:
            raise ProviderError(
                f"{what} had not ended after {self._commands.deadline:g} s and was killed{run.last_words()}"
            )
        return run.read_output()


def _start(
    command: str, name: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # The word after the command is its $0.
        ["/bin/sh", "-c", command, name, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )


class _CommandRun:
    """One run of a command."""

    def __init__(self, what: str, process: subprocess.Popen[bytes]) -> None:
        self._what = what
        self._process = process
        self._output = bytearray()
        self._errors = bytearray()

    async def finish(self, deadline: float) -> bool:
        """Read what it says until it ends; False if it does not in time. Whatever stops this before its end
        kills it and its whole group."""
        assert self._process.stdout is not None and self._process.stderr is not None
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:  # no descriptor: it cannot be watched, and must not be waited for
            os.killpg(self._process.pid, signal.SIGKILL)
            raise ProviderError(f"{self._what} cannot be followed, and was killed: {error}") from error
        try:
            with trio.move_on_after(deadline):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_read, self._process.stdout, self._output, 0)
                    nursery.start_soon(_read, self._process.stderr, self._errors, _ERRORS_KEPT)
                    await trio.lowlevel.wait_readable(pidfd)
                    # It may have started something that lives on, a machine even, and keeps its output open.
                    nursery.cancel_scope.deadline = trio.current_time() + _DRAIN_SECONDS
                return True
            return False
        finally:
            os.close(pidfd)
            # Asked and not reaped before: its id is its own, and so is the group's.
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def read_output(self) -> str:
        """Its output. Raises ProviderError if it failed or said too much or what is no text."""
        status = self._process.returncode
        if status != 0:
            how = f"exit code {status}" if status > 0 else f"signal {-status}"
            raise ProviderError(f"{self._what} failed with {how}{self.last_words()}")
        if len(self._output) > OUTPUT_MOST:
            raise ProviderError(f"{self._what} said more than {OUTPUT_MOST} bytes")
        try:
            return self._output.decode()
        except UnicodeDecodeError:
            raise ProviderError(f"{self._what} said what is no text (UTF-8)") from None

    def last_words(self) -> str:
        lines = [line.strip() for line in self._errors.decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1][:500]}" if lines else ""


async def _read(pipe: IO[bytes], into: bytearray, newest: int) -> None:
    """Read all of it. Of too much the beginning is kept, or the `newest` bytes."""
    async with trio.lowlevel.FdStream(os.dup(pipe.fileno())) as stream:
        async for piece in stream:
            if newest:
                into += piece
                del into[:-newest]
            elif len(into) <= OUTPUT_MOST:
                into += piece


def _machine(line: str) -> Machine | UnreadableMachine:
    words = line.split()
    owner, address = words[3] if words[3:] else "", words[4] if words[4:] else None
    if (
        len(words) not in (3, 4, 5)
        or not _ID.fullmatch(words[0])
        or not is_key(words[1])
        or not _WORD.fullmatch(words[2])
    ):
        return UnreadableMachine(f"a line is `ID TOKEN SERVICE OWNER [ADDRESS]`, and not {line!r:.200}")
    return Machine(words[0], words[1], words[2], running=True, address=address, owner=owner)


def _without_contradictions(
    told: Iterable[Machine | UnreadableMachine],
) -> Sequence[Machine | UnreadableMachine]:
    """What is told, each once. An id with two lines that differ is neither machine."""
    by_id: dict[str, Machine | UnreadableMachine] = {}
    for one in told:
        name = one.machine_id if isinstance(one, Machine) else one.text
        if by_id.setdefault(name, one) != one:
            by_id[name] = UnreadableMachine(f"two lines tell different things of machine {name}")
    return [*by_id.values()]
