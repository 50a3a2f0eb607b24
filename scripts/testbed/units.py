"""The systemd units of deploy/, started, stopped and reloaded as systemd does it, without one."""

from __future__ import annotations

import configparser
import os
import re
import select
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
PATIENCE = 120.0
"""Seconds that a start or a stop may take on a busy machine."""


class UnitFailed(Exception):
    """A unit did not start or end as it should; the text has what it said."""


class _Parser(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


@dataclass(frozen=True)
class Unit:
    """What stands in a unit's file: its command, its variables, and what `reload` runs."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    reload: tuple[str, ...]


def read_unit(name: str, places: Mapping[str, Path]) -> Unit:
    """A unit with `places` of ours in the place of the machine's. Its EnvironmentFile is read now."""
    text = (UNITS / name).read_text(encoding="utf-8")
    # The longest first, and all at once: one may begin with another, and stand within one of ours.
    longest = sorted(places, key=len, reverse=True)
    text = re.sub("|".join(map(re.escape, longest)), lambda found: str(places[found[0]]), text)
    lines = [line.partition("=") for line in text.splitlines()]
    parser = _Parser(strict=False)  # of what stands there several times it keeps the last
    parser.read_string(text)
    service = parser["Service"]
    environment = dict(pair.split("=", 1) for pair in shlex.split(service["Environment"]))
    file = Path(service["EnvironmentFile"].removeprefix("-"))
    if file.exists():
        environment |= dict(line.split("=", 1) for line in file.read_text().splitlines() if line)
    for directory in environment.values():
        if directory.startswith(str(places["/var/lib"])):
            Path(directory).parent.mkdir(parents=True, exist_ok=True)
    return Unit(
        name,
        tuple(shlex.split(service["ExecStart"])),
        environment,
        tuple(value for key, _, value in lines if key == "ExecReload"),
    )


class Running:
    """A unit that was started; it is ready."""

    def __init__(self, unit: Unit, log: Path, more: Mapping[str, str]) -> None:
        """`more`: variables besides the unit's. Raises UnitFailed."""
        self.unit = unit
        self.log = log
        self._environment = {**os.environ, **more, **unit.environment}
        notify = log.with_suffix(".notify")
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("ab") as output:
            told.bind(str(notify))
            self.process = subprocess.Popen(
                unit.command,
                env={**self._environment, "NOTIFY_SOCKET": str(notify)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            ended = os.pidfd_open(self.process.pid)
            try:
                self._await_ready(told, ended)
            finally:
                os.close(ended)

    def _await_ready(self, told: socket.socket, ended: int) -> None:
        while True:
            readable, _, _ = select.select([told, ended], [], [], PATIENCE)
            if told in readable:
                if told.recv(100) == b"READY=1":
                    return
            else:
                self.kill()
                raise UnitFailed(f"{self.unit.name} was not ready:\n{self.said()}")

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """As with KillMode=process: its main process alone is told. Raises UnitFailed."""
        self.process.terminate()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise UnitFailed(f"{self.unit.name} did not stop:\n{self.said()}") from None
        if status != 0:
            raise UnitFailed(f"{self.unit.name} ended with status {status}:\n{self.said()}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def reload(self) -> None:
        """What ExecReload says, in order. Raises UnitFailed at the first that fails."""
        for line in self.unit.reload:
            command = shlex.split(Template(line).substitute(MAINPID=self.process.pid))
            done = subprocess.run(
                command,
                env=self._environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if done.returncode != 0:
                raise UnitFailed(f"{line}: status {done.returncode}\n{done.stderr}")
