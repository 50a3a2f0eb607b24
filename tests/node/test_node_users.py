"""The node as somebody else than root, and as somebody who has some of root's capabilities."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from support.peers.node_clients import KEY
from support.processes.node_processes import NODE, node_process

ORDINARY: Final = 12_345
AS_ORDINARY_USER: Final = ("unshare", "-U", f"--map-user={ORDINARY}", f"--map-group={ORDINARY}")
"""Who has no capability, and no other user: in a namespace, so that it gets at this Python wherever it is."""
NOBODY: Final = 65534
CAPABILITIES: Final = ",".join(
    f"+{each}" for each in ("chown", "dac_override", "fowner", "kill", "setgid", "setuid")
)
"""Those that the documents name for uids of their own."""
WITH_CAPABILITIES: Final = (
    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
    *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"),
)
WHO: Final = r"""
id -u; grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | grep -vc '0000000000000000$'
echo made > made; umask 077; mkdir closed; echo mine > closed/mine
"""


def _works(within: tuple[str, ...]) -> bool:
    if shutil.which(within[0]) is None:
        return False
    command = [*within, sys.executable, "-c", "import node.cli"]
    return subprocess.run(command, check=False, cwd="/", capture_output=True).returncode == 0


ordinary = pytest.mark.skipif(not _works(AS_ORDINARY_USER), reason="no user namespaces can be made here")
capable = pytest.mark.skipif(
    os.geteuid() != 0 or not _works(WITH_CAPABILITIES), reason="takes root and setpriv"
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that users other than ours get to."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        yield Path(made)


async def run_job(place: Path, within: tuple[str, ...], *tier: str) -> tuple[list[str], set[int]]:
    """What a job of such a node says of itself, and whose its files are, as seen from here."""
    async with node_process(place / "data", "--executor", *tier, within=within) as node:
        end = await node.run(WHO)
        assert (end["status"], end["message"]) == ("Completed", "")
        work = place / "data" / "payloads" / KEY / "work"
        owners = {each.lstat().st_uid for each in work.rglob("*")}
        content = (await node.client.get(f"/v1/attempts/{KEY}/results")).content
        found = zipfile.ZipFile(io.BytesIO(content))
        assert found.read("made") == b"made\n" and found.read("closed/mine") == b"mine\n"
        said = found.read("stdout.log").decode().split()
        assert (await node.client.post("/v1/release", json={"keys": [KEY]})).status_code == 200
    return said, owners


@ordinary
@pytest.mark.parametrize("tier", ["auto", "landlock", "bash"])
async def test_jobs_of_an_ordinary_user_run_as_that_user(place: Path, tier: str) -> None:
    said, owners = await run_job(place, AS_ORDINARY_USER, tier)
    assert said == [str(ORDINARY), "0"]
    assert owners == {os.geteuid()}, "which is the user outside of the namespace"


@capable
@pytest.mark.parametrize("flags", [("landlock",), ("bash", "--uids", "2000000000-2000000009")], ids=" ".join)
async def test_who_has_the_capabilities_gives_uids_and_no_script_has_any_of_them(
    place: Path, flags: tuple[str, ...]
) -> None:
    (place / "data").mkdir(mode=0o711)
    os.chown(place / "data", NOBODY, NOBODY)
    said, owners = await run_job(place, WITH_CAPABILITIES, *flags)
    uid = int(said[0])
    assert uid not in (0, NOBODY) and owners == {uid}
    assert said[1] == "0"


@capable
async def test_a_node_of_root_that_makes_its_directory_gives_uids_and_closes_all_else_there(
    place: Path,
) -> None:
    said, owners = await run_job(place, (), "landlock")
    uid = int(said[0])
    assert uid != 0 and owners == {uid}
    assert [each.name for each in (place / "data").iterdir() if each.stat().st_mode & 0o077] == ["payloads"]


@ordinary
def test_an_ordinary_user_who_asks_for_uids_is_told_why_there_are_none(place: Path) -> None:
    flags = ["--port", "0", "--data", str(place / "data"), "--uids", "2000000000-2000000009"]
    command = [*AS_ORDINARY_USER, *NODE, *flags]
    answer = subprocess.run(command, check=False, cwd=place, capture_output=True, text=True, timeout=60)
    assert answer.returncode != 0
    assert "uids of their own: files cannot be given to uid 2000000000" in answer.stderr
    assert "Traceback" not in answer.stderr
