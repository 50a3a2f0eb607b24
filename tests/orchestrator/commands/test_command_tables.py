"""Lists on narrow terminals: what one copies or looks for stays whole."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from orchestrator.client import Job, LeftOutFile, Node, Service, Trouble
from orchestrator.commands.console.arguments import shown_names
from orchestrator.commands.console.history_table import emit_history, times_of_day
from orchestrator.commands.console.job_row import COLUMNS, left_out, place, row
from orchestrator.commands.console.output import pluralize
from orchestrator.commands.console.tables import make_table
from orchestrator.commands.top import Picture, draw
from orchestrator.contract.codec import from_json

LONG = "a name that somebody made from all that they know of it " * 4
QUEUE = ("PLACE", "ID", "USER", "SERVICE", "NAME", "AGE", "WAITS FOR", "MESSAGE")


def lines(headings: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[str]:
    shown = Console(file=io.StringIO(), width=width, highlight=False)
    shown.print(make_table(headings, rows, width), crop=False)
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 1000])
@pytest.mark.parametrize("service", ["example", LONG])
@pytest.mark.parametrize("name", ["short", LONG, "日本語" * 50])
def test_ids_statuses_and_times_are_never_cut(width: int, service: str, name: str) -> None:
    job = Job(4294967295, 4711, service, "Completed", LONG, 1, name=name, wall_seconds=90061)
    (heading, line) = lines(COLUMNS, [row(job)], width)
    assert line.startswith("4294967295 ") and heading.startswith("ID ") and " MESSA" in heading
    assert {"Completed", "4711", "1d1h"} < set(line.split())
    assert max(cell_len(heading), cell_len(line.rstrip())) <= width
    waits = [(12, 4294967295, 4711, service, name, "59m59s", "service_quota", LONG)]
    (heading, line) = lines(QUEUE, waits, width)
    assert line.split()[:3] == ["12", "4294967295", "4711"]
    assert {"59m59s", "service_quota"} < set(line.split())
    # This needs more than 60 characters: what is long keeps its beginning.
    assert max(cell_len(heading), cell_len(line.rstrip())) <= max(width, 65)


def test_what_has_room_is_not_cut_and_a_tiny_terminal_gets_longer_lines() -> None:
    cells = (1, "Failed", 1, "x", "name", "1s", "2s", "exit code 3")
    assert lines(COLUMNS, [cells], 80)[1] == "1   Failed  1     x        name  1s   2s   exit code 3"
    assert lines(("ID", "NAME"), [(1, "name")], 7) == ["ID NAME", "1  name"]
    (_, line) = lines(COLUMNS, [(*cells[:-1], LONG)], 20)
    assert line.split()[:4] == ["1", "Failed", "1", "x"]


STEPS = [
    "2026-11-23T23:59:59.25Z",
    "2026-11-24T00:00:01Z",
    "2026-11-24T08:00:01Z",
    "2026-11-25T00:00:00Z",
    "",
]


def test_the_history_tells_the_date_once_if_it_is_not_today() -> None:
    assert list(times_of_day(STEPS, date(2026, 11, 25))) == [
        "2026-11-23 23:59:59",
        "2026-11-24 00:00:01",
        "08:00:01",
        "2026-11-25 00:00:00",
        "",
    ]
    assert list(times_of_day(STEPS[1:3], date(2026, 11, 24))) == ["00:00:01", "08:00:01"]


def test_the_history_is_told_whole_at_a_terminal_and_for_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [{"at": at, "to": "Processing", "attempt": 1, "reason": LONG} for at in STEPS[1:3]]
    written = Written()
    monkeypatch.setattr("sys.stdout", written)
    emit_history(steps)
    assert STEPS[1] in written.getvalue() and LONG.rstrip() in written.getvalue()
    monkeypatch.setattr("sys.stdout", terminal := Written(tty=True))
    monkeypatch.setenv("COLUMNS", "60")
    emit_history(steps)
    shown = click.unstyle(terminal.getvalue()).splitlines()
    assert max(map(len, shown)) <= 60 and shown[1].startswith("2026-11-24 00:00:01")
    assert any(line.startswith("08:00:01 ") for line in shown)
    assert (
        "".join("".join(line[shown[0].index("WHAT") :].split()) for line in shown).count("allthattheyknow")
        == 8
    )


class Written(io.StringIO):
    def __init__(self, *, tty: bool = False) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def test_of_a_node_so_much_is_shown_that_names_it() -> None:
    ids = ["0123456789abcdef", "0123456789abcxyz", "host"]
    told: dict[str, Any] = {
        "url": "",
        "status": "ready",
        "message": "",
        "services": [],
        "slots": 1,
        "held": 0,
    }
    nodes = [from_json(Node, {**told, "others": 0, "load": 0, "id": one}) for one in ids]
    assert shown_names(nodes) == ["0123456789abcd", "0123456789abcx", "host"]
    assert shown_names(nodes[1:]) == ["0123456789ab", "host"] and shown_names([]) == []


def test_places_count_from_one_and_numbers_agree() -> None:
    assert place(Job(1, 1, "x", "Queued", "", 1, position=0)) == 1
    assert place(Job(1, 1, "x", "Running", "", 1)) is None
    assert [pluralize(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_what_results_lack_is_told_in_one_line() -> None:
    lacks = tuple(LeftOutFile(f"pipe{n}", "no file") for n in range(7))
    job = Job(1, 1, "x", "Completed", "", 1, files_left_out=lacks)
    assert left_out(job).startswith("pipe0 (no file), pipe1") and left_out(job).endswith(", and 2 more")
    assert left_out(Job(1, 1, "x", "Completed", "", 1, files_left_out=None)) == ""


def test_both_names_of_the_node_are_told_apart() -> None:
    from orchestrator.cli import main

    told = CliRunner().invoke(main, ["--help"]).output
    assert "The same as node, as 2.x calls it." in told and told.count("Run a compute node") == 1


def picture(troubles: int, nodes: int, running: int) -> Picture:
    at = {"url": "", "message": "", "services": ["docking"], "others": 0, "load": 50.0, "draining": None}
    job: dict[str, Any] = {
        "user_id": 1,
        "service": "docking",
        "status": "Running",
        "message": "",
        "version": 1,
    }
    service = {"name": "docking", "runs_per_user": 1, "max_runs": 9, "paused": None}
    return Picture(
        [from_json(Trouble, {"kind": "lost", "text": f"node n\x1b{one} is lost"}) for one in range(troubles)],
        [from_json(Service, service | {"jobs": {"Queued": 2, "Running": 1, "Prepared": 1}})],
        [
            from_json(Node, at | {"id": f"n{one}", "status": "ready", "slots": 4, "held": 1})
            for one in range(nodes)
        ],
        [
            from_json(Job, job | {"id": one, "node": "n1", "node_name": "gpu"})
            for one in range(1, running + 1)
        ],
    )


def test_slots_are_those_of_ready_nodes_and_no_number_where_one_has_none() -> None:
    at = {"url": "", "message": "", "services": [], "others": 1, "load": 0.0, "draining": None, "held": 1}
    ready = from_json(Node, at | {"id": "a", "status": "ready", "slots": 4})
    lost = from_json(Node, at | {"id": "b", "status": "lost", "slots": 4})
    endless = from_json(Node, at | {"id": "c", "status": "ready", "slots": None})
    assert Picture([], [], [ready, lost], []).summary().endswith("1 of 2 nodes ready, 2 of 4 slots in use")
    assert Picture([], [], [ready, endless], []).summary().endswith("2 of 2 nodes ready, 4 slots in use")


@pytest.mark.parametrize("height", [1, 4, 5, 9, 24])
def test_what_is_drawn_of_everything_has_room_what_is_wrong_first(height: int) -> None:
    shown = Console(file=io.StringIO(), width=60, height=height)
    shown.print(draw(picture(2, 30, 40), shown))
    assert isinstance(shown.file, io.StringIO)
    lines = shown.file.getvalue().splitlines()
    assert len(lines) <= max(height, 4)
    assert lines[:2] == ["node n\\x1b0 is lost", "node n\\x1b1 is lost"][: len(lines)]
    assert lines[2].startswith("2 jobs queued, 2 under way; 30 of 30 nodes ready, 30 of")


def test_where_there_is_room_all_of_it_is_drawn() -> None:
    shown = Console(file=io.StringIO(), width=80, height=40)
    shown.print(draw(picture(0, 2, 3), shown))
    assert isinstance(shown.file, io.StringIO)
    text = shown.file.getvalue()
    assert text.startswith("nothing is wrong\n")
    assert all(re.search(rf"^{one} +1 +docking +- +gpu", text, re.M) for one in (1, 2, 3))
    assert all(f"n{one}" in text for one in range(2))
