"""The files below `deploy/` speak of what there is: flags, variables, settings, routes."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from actors.process.service_manager import READY, tell_manager
from node.settings import load_settings
from orchestrator.access.tokens import make_secret
from orchestrator.cli import main
from orchestrator.config.settings import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".service"))
COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
UNITS = ("orchestrator.service", "orchestrator-node.service")


class Unit(configparser.RawConfigParser):
    """A file of systemd's."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@cache
def help_of(command: str) -> str:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flags_are_those_of_the_command(path: Path) -> None:
    text = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
    for command in ("server", "node", "client"):
        # Up to the next command, or the end of what belongs to this one.
        for found in re.finditer(rf"orchestrator\W+{command}\b((?:[\s\",\-]+--[a-z-]+[=\s]?[^\s,]*)*)", text):
            known = help_of("node" if command == "client" else command)
            for flag in re.findall(r"--[a-z][a-z-]+", found[1]):
                assert re.search(rf"{flag}\b", known), (path.name, flag)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_variables_are_documented(path: Path) -> None:
    documented = (ROOT / "docs/configuration.md").read_text()
    names = set(re.findall(r"\b([A-Z]+_[A-Z_]+)(?=[:=]| value)|name: ([A-Z]+(?:_[A-Z]+)+)", path.read_text()))
    for name in {one or other for one, other in names} - {"NODE_TOKEN"}:
        general = re.sub(r"SERVICE_EXAMPLE_", "SERVICE_<NAME>_", name)
        assert name in documented or general in documented, (path.name, name)


def test_the_files_of_a_server_and_a_node_fit_the_units(tmp_path: Path) -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    for name, content in re.findall(r"```toml\n# /etc/orchestrator/(\w+\.toml)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(content.replace("/etc/orchestrator", str(tmp_path)))
    (tmp_path / "node.token").write_text(token := make_secret())
    unit = Unit(strict=False)
    unit.read(DEPLOY / "systemd/orchestrator.service")
    environment = dict(one.split("=", 1) for one in unit["Service"]["Environment"].split())
    server = load({}, tmp_path / "server.toml", named=("db_path", "data_path"))
    assert (str(server.db_path), str(server.data_path)) == (environment["DB_PATH"], environment["DATA_PATH"])
    node = load_settings({}, {}, tmp_path / "node.toml")
    assert (node.join,) == server.public_url and {*node.join_services} == {*server.services}
    assert node.dial_out and node.slots and node.token == token


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where a service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_and_says_when_it_is_ready_and_when_it_stops(
    name: str, tmp_path: Path, told: socket.socket
) -> None:
    unit = Unit(strict=False)
    unit.read(DEPLOY / "systemd" / name)
    service = unit["Service"]
    assert service["Type"] == "notify"
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/orchestrator/bin/orchestrator"
    (tmp_path / "settings.toml").write_text("")
    places = {"/etc/orchestrator/server.toml", "/etc/orchestrator/node.toml"}
    arguments = [str(tmp_path / "settings.toml") if one in places else one for one in arguments]
    environment = dict(one.split("=", 1) for one in service["Environment"].split())
    environment = {key: str(tmp_path / value.lstrip("/")) for key, value in environment.items()}
    for value in environment.values():
        Path(value).parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [*COMMAND, *arguments], env={**os.environ, **environment, "PORT": "0"}, stdout=subprocess.DEVNULL
    )
    try:
        assert told.recv(100) == b"READY=1"
        process.terminate()
        assert told.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("address", ["", "nonsense", "/not/there", "@nobody-listens-there"])
def test_who_cannot_be_told_stops_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    tell_manager(READY)
