"""Nothing that a job chose steers a terminal, leaves its directory, or costs the start of the command."""

from __future__ import annotations

import itertools
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.peers.peer import Peer, Request, send, serving
from support.processes.processes import Place

from orchestrator.client import BadAnswer, Job
from orchestrator.commands.console.output import clean, size, span
from orchestrator.commands.console.terminal_filter import Filter
from orchestrator.commands.console.unzip import unpack
from orchestrator.commands.follow import exit_status

EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202eexe\x00"


def test_text_of_jobs_is_shown_without_what_steers_a_terminal() -> None:
    assert clean(EVIL) == r"\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202eexe\x00"
    assert clean("Größe 🧬 日本") == "Größe 🧬 日本"
    assert clean("\udcff") == r"\udcff"


LOG = "caf\ufffd \x1b[1;31mred\x1b[0m \U0001f9ec\r\n\ttab\n".encode() + b"\xff\xe2\x82"
SHOWN = "caf\ufffd \x1b[1;31mred\x1b[0m \U0001f9ec\r\n\ttab\n\ufffd\ufffd\x1b[0m".encode()


@given(st.lists(st.integers(0, len(LOG)), max_size=8))
def test_a_log_keeps_its_text_and_colours_wherever_it_is_cut(cuts: list[int]) -> None:
    shown = Filter(tty=True)
    places = sorted([0, *cuts, len(LOG)])
    pieces = [LOG[begin:end] for begin, end in itertools.pairwise(places)]
    assert b"".join(shown.feed(piece) for piece in pieces) + shown.end() == SHOWN


@pytest.mark.parametrize("evil", [b"\x1b[2J", b"\x1b]52;c;AAAA\x07", b"\x1bc", b"\x9b6n", b"\x00\x08\x07"])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_what_moves_the_cursor_or_answers_on_the_keyboard_is_left_out(evil: bytes, cut: int) -> None:
    shown = Filter(tty=True)
    out = shown.feed(evil[:cut]) + shown.feed(evil[cut:]) + shown.end()
    assert b"\x1b" not in out.removesuffix(b"\x1b[0m") and not set(out) & {0, 7, 8}
    assert Filter(tty=False).feed(evil) == evil


async def test_tables_and_json_of_hostile_jobs_steer_no_terminal(here: Place) -> None:
    job = {"id": 1, "user_id": 1, "service": EVIL, "status": "Queued", "message": EVIL, "version": 1}
    job |= {
        "progress": 0.299,
        "progress_message": EVIL,
        "batch": {"system": "slurm", "id": EVIL, "state": EVIL, "reason": EVIL},
        "name": EVIL,
        "tags": [EVIL],
        "node": EVIL,
        "waiting_for": EVIL,
        "position": 1,
    }

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        path = request.path.partition("?")[0]
        if path == "/v1/jobs":
            await send(stream, 200, {"items": [job], "next": None})
        elif path == "/v1/jobs/1":
            await send(stream, 200, job)
        elif path == "/v1/jobs/1/history":
            await send(stream, 200, {"items": [{"at": "", "to": EVIL, "reason": EVIL}], "next": None})
        else:
            await send(stream, 400, {"detail": EVIL, "code": "x"})

    async with serving(Peer(answer)) as peer:
        for arguments in (
            ["ls"],
            ["ls", "--json"],
            ["status", "1"],
            ["queue"],
            ["nodes"],
            ["queue", "--users"],
        ):
            done = await trio.to_thread.run_sync(
                lambda given=arguments: here.command(*given, environment={"ORCHESTRATOR_URL": peer.url})
            )
            written = done.out + "\n".join(done.lines)
            assert r"\x1b" in written or r"\u001b" in written
            assert all(character.isprintable() or character == "\n" for character in written), written


def archive(path: Path, **members: tuple[str, str, int]) -> Path:
    """A zip: by any keyword a name, a content, and the mode with its type."""
    with zipfile.ZipFile(path, "w") as made:
        for name, content, mode in members.values():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = mode << 16
            made.writestr(info, content)
    return path


FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//../x/.."])
def test_a_zip_with_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    made = archive(tmp_path / "z.zip", a=(name, "x", FILE))
    (tmp_path / "in").mkdir()
    with pytest.raises(BadAnswer, match="unsafe name"):
        unpack(made, tmp_path / "in" / "tree")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "z.zip"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    made = archive(tmp_path / "z.zip", a=("l", str(outside), LINK), b=("l/x", "x", FILE))
    assert unpack(made, tmp_path / "tree") == ["'l': a link that leads out of the directory"]
    assert list(outside.iterdir()) == []
    made = archive(tmp_path / "z.zip", d=("d/f", "", FILE), a=("l", "d", LINK), b=("l/x", "x", FILE))
    with pytest.raises(BadAnswer, match="two different things"):
        unpack(made, tmp_path / "other")


def test_links_that_lead_out_are_left_out_and_told(tmp_path: Path) -> None:
    made = archive(
        tmp_path / "z.zip",
        f=("d/f", "x", FILE),
        ok=("ok", "d/f", LINK),
        absolute=("absolute", "/etc/passwd", LINK),
        up=("d/up", "../../x", LINK),
        a=("a", "d", LINK),
        chained=("chained", "a/../../x", LINK),
    )
    left_out = unpack(made, tmp_path / "tree")
    assert [line.split(":")[0] for line in left_out] == ["'absolute'", "'d/up'", "'chained'"]
    assert (tmp_path / "tree" / "ok").read_text() == "x"


def test_modes_are_kept_without_what_runs_as_somebody_else(tmp_path: Path) -> None:
    made = archive(
        tmp_path / "z.zip",
        d=("d/", "", stat.S_IFDIR | 0o555),
        x=("d/x", "x", stat.S_IFREG | 0o4755),
        r=("d/r", "r", stat.S_IFREG | 0o400),
    )
    assert unpack(made, tmp_path / "tree") == []
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tree" / "d").iterdir()}
    assert modes == {"x": 0o755, "r": 0o600}


@pytest.mark.parametrize(
    ("status", "exit_code", "signal", "expected"),
    [
        ("Completed", 0, None, 0),
        ("Cleaned", 0, None, 0),
        ("Failed", 3, None, 3),
        ("Failed", None, 9, 137),
        ("Failed", None, None, 125),
        ("Failed", 0, None, 125),
        ("Invalid", None, None, 125),
        ("Killed", None, 15, 143),
        ("Killed", 0, None, 125),
        ("Killed", 7, None, 7),
        ("Cleaned", None, None, 125),
    ],
)
def test_exit_status_of_every_kind_of_end(
    status: str, exit_code: int | None, signal: int | None, expected: int
) -> None:
    job = Job(1, 1, "s", status, "", 1, exit_code=exit_code, signal=signal)
    assert exit_status(job) == expected


def test_durations_and_sizes_are_short() -> None:
    assert [span(value) for value in (None, 0.04, 59.9, 61, 3600, 90061)] == [
        "", "0.0s", "59s", "1m1s", "1h0m", "1d1h",
    ]  # fmt: skip
    assert [size(value) for value in (None, 0, 1023, 1536, 20 << 20)] == ["", "0B", "1023B", "1.5K", "20M"]


def test_help_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, orchestrator.cli\n"
        "heavy = ('httpx', 'rich', 'quart', 'pydantic', 'anyio', 'structlog')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_completion_of_the_shell_is_offered(here: Place) -> None:
    offered = here.refused(environment={"_ORCHESTRATOR_COMPLETE": "bash_source"})
    assert offered.status == 0 and "complete -o nosort -F _orchestrator_completion" in offered.out
    words = {"COMP_WORDS": "orchestrator undr", "COMP_CWORD": "1", "_ORCHESTRATOR_COMPLETE": "bash_complete"}
    assert "undrain" in here.refused(environment=words).out
