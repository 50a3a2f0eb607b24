"""A second process on one directory, or on one port, is refused in one line that says so."""

from __future__ import annotations

import sys
from pathlib import Path

from support.processes.processes import Place, Refused


def _in_one_line(refused: Refused, *words: str) -> None:
    assert refused.status == 1
    assert refused.out == ""
    # What is told besides, as that scripts are root here, is in lines of the log.
    assert len([line for line in refused.lines if " WARNING " not in line]) == 1, refused
    (said,) = (line for line in refused.lines if " WARNING " not in line)
    assert all(word in said for word in words), refused.lines


async def test_a_second_server_on_the_same_data(here: Place) -> None:
    here.server()
    data = here.directory / "server"
    environment = {"DATA_PATH": str(data / "data"), "DB_PATH": str(data / "other.sqlite"), "PORT": "0"}
    environment["SERVICE_EXAMPLE_NODES"] = "http://127.0.0.1:9"
    _in_one_line(here.refused("server", environment=environment), str(data / "data"), "another orchestrator")


async def test_a_host_of_the_app_on_the_same_data(here: Place) -> None:
    here.server()
    data = here.directory / "server"
    environment = {
        "DATA_PATH": str(data / "data"),
        "DB_PATH": str(data / "db.sqlite"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    hypercorn = (sys.executable, "-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0")
    refused = here.refused("orchestrator.asgi:app", command=hypercorn, environment=environment)
    # Its status and the lines around the reason are the host's.
    assert any("another orchestrator" in line for line in refused.lines), refused.lines


async def test_a_second_node_on_the_same_data(here: Place) -> None:
    here.node("node")
    data = str(here.directory / "node")
    _in_one_line(here.refused("node", "--port", "0", "--data", data), data, "in use")


async def test_a_second_up_on_the_same_data(here: Place) -> None:
    here.up("--nodes", "1")
    data = str(here.directory / "up")
    _in_one_line(here.refused("up", "--nodes", "1", "--port", "0", "--data", data), data)
    assert len([process for process in here.left() if "--on-stop" in process.cmdline()]) == 1


async def test_a_port_in_use_is_refused_by_all_three(here: Place) -> None:
    node = here.node("node")
    port = node.port
    environment = {
        "DATA_PATH": str(here.directory / "data"),
        "DB_PATH": str(here.directory / "db.sqlite"),
        "SERVICE_EXAMPLE_NODES": "http://127.0.0.1:9",
    }
    for arguments in (
        ("server",),
        ("node", "--data", str(here.directory / "other")),
        ("up", "--nodes", "1", "--data", str(here.directory / "up")),
    ):
        refused = here.refused(*arguments, "--port", port, environment=environment)
        _in_one_line(refused, port, "in use")
    begun = [process for process in here.left() if "--on-stop" in process.cmdline()]
    assert not [process for process in begun if process.pid != node.pid]
