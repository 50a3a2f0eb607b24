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
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from actors.domain.ids import is_key
from actors.domain.scaling import Machine, UnreadableMachine
from actors.ports.scaling import ProviderError
from actors.process import command_run
from actors.process.command_run import OUTPUT_MOST
from orchestrator.config.scaling import CommandSettings

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
        # The word after the command is its $0.
        words = ["/bin/sh", "-c", command, what, *arguments]
        environment = {**os.environ, **self._environment, **(more or {})}
        return await run_command(what, words, environment, self._commands.deadline)


async def run_command(
    what: str, words: Sequence[str], environment: Mapping[str, str], deadline: float
) -> str:
    """What a command printed. Raises ProviderError unless it ends well and within `deadline` seconds."""
    try:
        end = await command_run.run_command(words, environment, deadline)
    except (OSError, ValueError) as error:
        raise ProviderError(f"{what} cannot be run: {error}", certain=True) from error
    if end.status is None:
        raise ProviderError(f"{what} had not ended after {deadline:g} s and was killed{end.last_words()}")
    if end.status != 0:
        how = f"exit code {end.status}" if end.status > 0 else f"signal {-end.status}"
        raise ProviderError(f"{what} failed with {how}{end.last_words()}")
    if len(end.output) > OUTPUT_MOST:
        raise ProviderError(f"{what} said more than {OUTPUT_MOST} bytes")
    try:
        return end.output.decode()
    except UnicodeDecodeError:
        raise ProviderError(f"{what} said what is no text (UTF-8)") from None


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
