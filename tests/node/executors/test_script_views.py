"""The files of jobs and what they are given may lie anywhere, and bubblewrap shows them, and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.confinement.grants import Grants
from node.confinement.tier_settings import NO_UIDS, RANGES, UidRange
from node.executors.executor import HOME, STDERR, STDOUT, RunSpec
from node.executors.shepherd_executor import ShepherdExecutor
from tests.node.executors.conftest import ISOLATIONS, ROOT, Payloads

PLACES = ("/tmp", "/var/tmp", "/run", "/var/lib", "/usr/local", "/")
"""Where scripts have directories of their own; where nothing is seen; in what is seen; beside it."""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or "pidns" not in ISOLATIONS, reason="for root, with namespaces"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bwrap"),
]

SCRIPT = """
cat "$READ/kept" "$SINGLE"
{ echo more >> "$READ/kept"; } 2> /dev/null && echo "writes what it may read"
echo made >> "$WRITE/made.$UID"
for each in "$PLACE" "${PLACE%/*}/" /run / /etc /var/spool "$READ/.."; do
    { : > "$each/new"; } 2> /dev/null && echo "writes in $each"
done
cat "$PLACE/secret" "$PLACE/payloads/other/work/run.sh" 2> /dev/null
pwd > "$HOME/mine"
: > "$TMPDIR/temporary"
grep -c ^daemon: /etc/passwd
"""


@pytest.mark.parametrize(
    ("place", "uids"), [*((place, RANGES[0]) for place in PLACES), ("/var/lib", NO_UIDS)], ids=str
)
async def test_a_script_sees_its_own_and_what_it_is_given(place: str, uids: UidRange) -> None:
    with tempfile.TemporaryDirectory(prefix="job-views-", dir=place) as made:
        data = Path(made)
        payloads = Payloads(data)
        for name in ("read", "write", "single"):
            (data / name).mkdir(mode=0o755)
        (data / "read" / "kept").write_text("kept\n")
        (data / "single" / "file").write_text("single\n")
        (data / "secret").write_text("secret\n")
        (data / "write").chmod(0o777)
        other = data / "payloads" / "other" / "work"
        other.mkdir(parents=True)
        (other / "run.sh").write_text("another's\n")
        grants = Grants(read=(data / "read", data / "single" / "file"), write=(data / "write",))
        executor = ShepherdExecutor(data, "pidns", tier="bubblewrap", uids=uids, grants=(grants,))
        async with trio.open_nursery() as nursery:
            await nursery.start(executor.serve)
            # The second shares its shepherd, and has nothing more and nothing less.
            for _ in range(2):
                spec = _make(payloads, data, grants)
                with trio.fail_after(60):
                    end = await (await executor.start(spec)).wait()
                said = (spec.directory / STDOUT).read_text() + (spec.directory / STDERR).read_text()
                if place in ("/tmp", "/var/tmp"):
                    # Its own, in which there is a place for what it was given.
                    said = "".join(
                        line for line in said.splitlines(True) if f"writes in {place}/" not in line
                    )
                assert (end.exit_code, said) == (0, "kept\nsingle\n1\n")
                assert not (data / "new").exists() and not (data.parent / "new").exists()
                assert (spec.directory / HOME / "mine").read_text() == f"{spec.work}\n"
                assert (data / "read" / "kept").read_text() == "kept\n"
            written = [each.read_text() for each in (data / "write").iterdir()]
            assert "".join(written) == "made\nmade\n"
            nursery.cancel_scope.cancel()


def _make(payloads: Payloads, data: Path, grants: Grants) -> RunSpec:
    spec = payloads.make(SCRIPT)
    home = spec.directory / HOME
    home.mkdir()
    about = {
        "PATH": os.environ["PATH"],
        "PLACE": str(data),
        "READ": str(data / "read"),
        "SINGLE": str(data / "single" / "file"),
        "WRITE": str(data / "write"),
        "HOME": str(home),
        "TMPDIR": str(home),
    }
    return replace(spec, grants=grants, environment=about)


async def test_what_is_put_into_the_place_of_something_hidden_is_hidden_as_well(payloads: Payloads) -> None:
    """From a shepherd that has had a payload before: its mounts went with what they were on."""
    with tempfile.TemporaryDirectory(prefix="job-views-", dir="/var/lib") as made:
        os.chmod(made, 0o755)
        hidden = Hidden(Path(made))
        executor = ShepherdExecutor(
            payloads.directory, "pidns", tier="bubblewrap", uids=RANGES[0], private=hidden.places
        )
        shepherds = set()
        async with trio.open_nursery() as nursery:
            await nursery.start(executor.serve)
            for _ in range(3):
                spec = payloads.make(f"ls {made}/directory; cat {made}/directory/file {made}/file")
                with trio.fail_after(60):
                    await (await executor.start(spec)).wait()
                shepherds.add((spec.directory / "run").read_text().split("pid ")[1].split()[0])
                assert (spec.directory / STDOUT).read_text() == ""
                hidden.replace()
            nursery.cancel_scope.cancel()
        assert len(shepherds) == 1


class Hidden:
    """A directory and a file that anybody might read, and others in their place."""

    def __init__(self, place: Path) -> None:
        self.places = self._directory, self._file = place / "directory", place / "file"
        self._put()

    def replace(self) -> None:
        self._directory.rename(self._directory.with_name("earlier"))
        self._put()
        shutil.rmtree(self._directory.with_name("earlier"))

    def _put(self) -> None:
        self._directory.mkdir()
        (self._directory / "file").write_text("seen\n")
        new = self._file.with_name("new")
        new.write_text("seen\n")
        new.rename(self._file)


RESTRICTED = """
import os, sys
from node.executors import namespaces
place = os.fsencode(sys.argv[2])
for mount in (place, place + b"/with a space", place + b"/with a space/below"):
    os.makedirs(mount, exist_ok=True)
    namespaces._mount(b"tmpfs", mount, b"tmpfs", 8)  # noexec
if sys.argv[1] == "each":
    namespaces.restrict_each(place + b"/with a space", 7)
else:
    namespaces.restrict(place + b"/with a space", read_only=True)
for mount in (b"", b"/with a space", b"/with a space/below"):
    print(os.statvfs(place + mount).f_flag & 15)
"""


@pytest.mark.parametrize("how", ["at once", "each"])
def test_mounts_are_restricted_with_those_below_them_alone(how: str, tmp_path: Path) -> None:
    """Also where the kernel has no call for it."""
    command = ["unshare", "-m", sys.executable, "-c", RESTRICTED, how, str(tmp_path / "place")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["8", "15", "15"]
