"""Files of others in the directory of a script that has a user of its own. Where the kernel lets it
(fs.protected_hardlinks=0), a script makes hard links to what it may not read: a node of root's does not read
that for it.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.data.directories import until
from support.peers.node_clients import KEY
from support.processes.node_processes import NodeProcess, node_process

from actors.domain.progress import Progress
from actors.wire.errors import SourceChanged
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream
from actors.wire.protocol.frames import FrameReader
from node.runs import progress_file

UID = 2_000_000_000
SOMEBODY = 2_100_000_000
SECRET = b"0.5 root's secret\n"
UNTIL_GO = b"for ((i = 0; i < 3000; i++)); do [ ! -e go ] || break; sleep 0.02; done; rm go"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="users of their own take a node of root's")


@pytest.fixture
def place() -> Iterator[Path]:
    """One that users other than ours get to."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.parametrize("owner", [0, SOMEBODY])
async def test_hard_links_to_files_of_others_are_neither_shown_nor_collected(place: Path, owner: int) -> None:
    secret = place / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    os.chown(secret, owner, owner)
    (place / "data").mkdir(mode=0o711)
    node_flags = ("--executor", "bash", "--uids", f"{UID}-{UID + 9}")
    async with node_process(place / "data", *node_flags) as node:
        script = b"echo mine > mine; ln mine twice; ln -s taken link; mkdir d; " + UNTIL_GO
        assert (await node.submit({KEY: {"run.sh": script}})).status_code == 200
        directory = place / "data" / "payloads" / KEY
        work = directory / "work"
        await until((work / "d").exists, directory.parent)
        # As the script could, were it not for this kernel.
        for name in ("taken", "d/taken"):
            (work / name).hardlink_to(secret)
        (directory / "progress" / "progress").hardlink_to(secret)
        shown = await node.client.get(f"/v1/attempts/{KEY}/files/taken")
        assert (shown.status_code, SECRET in shown.content) == (404, False)
        (work / "go").touch()
        assert (await node.end_of())["status"] == "Completed"
        assert (await node.until(KEY, "Completed"))["progress"] is None
        frames = await _collect(node)
    assert secret.read_bytes() == SECRET
    left_out = json.loads(frames[0][1])["manifest"]["left_out"]
    assert left_out == [
        ["d/taken", "it belongs to another user"],
        ["link", "a link that leads nowhere"],
        ["taken", "it belongs to another user"],
    ]
    found = zipfile.ZipFile(io.BytesIO(b"".join(data for kind, data in frames if kind == b"Z")))
    assert {*found.namelist()} == {"run.sh", "mine", "twice", "d/", "stdout.log", "stderr.log"}
    assert found.read("twice") == b"mine\n"
    assert not [name for name in found.namelist() if SECRET in found.read(name)]


async def _collect(node: NodeProcess) -> list[tuple[bytes, bytes]]:
    answer = await node.client.post("/v1/collect", json={"keys": [KEY]})

    async def body() -> AsyncIterator[bytes]:
        yield answer.content

    return [frame async for frame in FrameReader(body())]


async def test_what_becomes_a_file_of_others_after_it_was_listed_is_not_read(place: Path) -> None:
    work = place / "work"
    work.mkdir()
    (work / "file").write_bytes(SECRET)
    for path in (work, work / "file"):
        os.chown(path, UID, UID)
    listing = list_tree(work)
    os.chown(work / "file", SOMEBODY, SOMEBODY)
    left_out: list[tuple[str, str]] = []
    pieces = [piece async for piece in zip_stream(work, listing.entries, left_out=left_out)]
    assert zipfile.ZipFile(io.BytesIO(b"".join(pieces))).namelist() == []
    assert left_out == [("file", "'file' may not be read: it belongs to another user")]
    with pytest.raises(SourceChanged, match="belongs to another user"):
        [piece async for piece in zip_stream(work, listing.entries, strict=True)]


def test_progress_in_a_file_of_others_is_neither_read_nor_emptied(place: Path) -> None:
    file = place / "progress" / "progress"
    file.parent.mkdir()
    with file.open("wb") as made:
        made.write(b"x" * (2 << 20))
        made.write(b"\n0.5 halfway\n")
    os.chown(file.parent, UID, UID)
    size = file.stat().st_size
    assert progress_file.read(place).after(None) is None
    assert file.stat().st_size == size
    os.chown(file, UID, UID)
    assert progress_file.read(place).after(None) == Progress(0.5, "halfway")
    assert file.stat().st_size == 0
