"""What a node says at its start that scripts do not see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.confinement.grants import Grants
from node.confinement.visible import Entry, MachineFiles, View, find_visible
from node.runs.sight import find_sight, find_unjoined, report, tell_grants
from node.settings import NodeSettings

Environ = dict[str, str]


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


class Usr(MachineFiles):
    """A machine that has nothing but `/usr`."""

    def entries(self, directory: str) -> Iterator[Entry]:
        return (each for each in super().entries(directory) if directory != "/" or each.name == "usr")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("conda", "python3", "gmx", "pip"):
        program(tmp_path / "conda" / "bin" / name)
    program(tmp_path / ".local" / "bin" / "tool")
    return tmp_path


@pytest.fixture
def environ(home: Path) -> Environ:
    return {"PATH": f"{home}/conda/bin:/usr/bin", "HOME": str(home)}


@pytest.fixture
def view(home: Path) -> View:
    return find_visible(Usr(), frozenset((str(home),)), None)


def test_a_directory_of_path_that_is_not_seen_is_told_with_the_line_that_shows_it(
    environ: Environ, view: View, home: Path
) -> None:
    (line,) = report(environ, NodeSettings(), view)
    assert line == (
        f"of PATH, scripts do not see {home}/conda/bin (conda, gmx, pip and 1 more): to show it,"
        f' read = ["{home}/conda"]'
    )
    assert list(report(environ, NodeSettings(), None)) == []


def test_what_is_granted_to_all_or_to_one_service_is_not_missed(
    environ: Environ, view: View, home: Path
) -> None:
    shown = Grants(read=(home / "conda",))
    assert list(report(environ, NodeSettings(grants=shown), view)) == []
    of_one = NodeSettings(services={"docking": shown})
    assert list(report(environ, of_one, view)) == []
    docking, other = (find_sight(environ, of_one, view, name) for name in ("docking", "other"))
    assert docking.shows(f"{home}/conda/bin/gmx") and not other.shows(f"{home}/conda/bin/gmx")
    assert [each.directory for each in docking.unseen] == [f"{home}/.local/bin"]


def test_programs_under_the_home_are_known_though_path_does_not_name_them(
    environ: Environ, view: View, home: Path
) -> None:
    found = find_sight({**environ, "PATH": "/usr/bin"}, NodeSettings(), view, "any").unseen
    assert [(each.directory, each.programs) for each in found] == [(f"{home}/.local/bin", ("tool",))]


def test_variables_that_are_not_passed_are_told_and_those_that_are_not(environ: Environ) -> None:
    there = {**environ, "LD_LIBRARY_PATH": "/opt", "MODULEPATH": "/m", "EDITOR": "vi", "R_LIBS": ""}
    (line,) = report(there, NodeSettings(), None)
    assert line == (
        "scripts do not get LD_LIBRARY_PATH, MODULEPATH, which this node has: to pass them,"
        ' env = ["LD_LIBRARY_PATH", "MODULEPATH"]'
    )
    passed = NodeSettings(pass_env=("LD_*",), job_env={"MODULEPATH": "/other"})
    assert list(report(there, passed, None)) == []


def test_what_is_granted_and_is_not_there_is_told(environ: Environ, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    settings = NodeSettings(
        grants=Grants(read=(gone, tmp_path)),
        services={"docking": Grants(read=(gone, tmp_path), write=(tmp_path / "out",))},
    )
    assert list(report(environ, settings, None)) == [
        f"there is no {gone}, which scripts may read",
        f"there is no {tmp_path}/out, which scripts of docking may write",
    ]


def test_a_tree_that_was_not_looked_through_is_told(environ: Environ, view: View, home: Path) -> None:
    large = replace(view, left_out=("/data",))
    shown = Grants(read=(home,))
    (line,) = report(environ, NodeSettings(grants=shown), large)
    assert line.startswith("scripts see nothing of /data") and 'read = ["/data"]' in line
    both = Grants(read=(home, Path(os.path.realpath("/data"))))
    assert [line for line in report(environ, NodeSettings(grants=both), large) if "see nothing" in line] == []


def test_what_a_service_is_given_is_told_and_one_that_the_node_does_not_join_for() -> None:
    services = {
        "docking": Grants(read=(Path("/a"), Path("/b")), network=True),
        "dockng": Grants(network=True),
    }
    settings = NodeSettings(services=services, join_services=("docking",))
    assert list(tell_grants(settings)) == ["scripts of docking may: read /a, /b; network"]
    assert find_unjoined(settings) == [
        "services.dockng: this node does not join for it, but for docking; did you mean docking?"
    ]
    assert find_unjoined(NodeSettings(services=services)) == []
