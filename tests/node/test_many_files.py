"""Jobs that leave very many small files: the node says so, holds few of them in memory, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.data.directories import until
from support.data.in_memory import path_in_memory
from support.peers.node_clients import KEY, OTHER
from support.processes.node_processes import node_process

FILES = 30_000
MANY = 50_000
MORE = 10 << 20
"""Bytes of memory that a node may take for a tree of which it takes nothing: to hold all names at once takes
twice as much."""
UNTIL_GO = "for ((i = 0; i < 1200; i++)); do [ ! -e go ] || break; sleep 0.05; done; rm go"
MAKE = (
    "import os\nfor d in range({}):\n os.mkdir(str(d))\n"
    " for n in range({}): os.close(os.open(str(d) + '/' + str(n), os.O_CREAT))"
)


@pytest.fixture
def data() -> Iterator[Path]:
    """A node's directory in memory: a busy disk takes a minute to make and delete as many files."""
    with path_in_memory() as place:
        yield place / "data"


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.mark.parametrize("directories", [1, 30])
async def test_more_files_than_are_collected_cost_no_memory_and_go(data: Path, directories: int) -> None:
    async with node_process(data, "--max-result-files", "100") as node:
        assert (await node.run("true", OTHER))["status"] == "Completed"
        before = peak(node.process.pid)
        made = MAKE.format(directories, MANY // directories)
        script = f'python3 -c "{made}"; touch all; {UNTIL_GO}'
        assert (await node.submit({KEY: {"run.sh": script.encode()}})).status_code == 200
        work = data / "payloads" / KEY / "work"
        await until((work / "all").exists, data / "payloads")
        shown = await node.client.get(f"/v1/attempts/{KEY}/files")
        assert (shown.status_code, shown.json()["code"]) == (409, "too_many_files")
        assert "more than 100 files now" in shown.json()["detail"]
        (work / "go").touch()
        end = await node.end_of(KEY)
        assert end["status"] == "Failed"
        assert end["message"].startswith("it left more than 100 files, which is the limit; most are in ")
        assert (await node.client.post("/v1/release", json={"keys": [KEY, OTHER]})).status_code == 200
        await until(lambda: not [*(data / "payloads").iterdir(), *(data / "trash").iterdir()], data)
        assert peak(node.process.pid) - before < MORE


async def test_as_many_as_are_collected_are(data: Path) -> None:
    async with node_process(data) as node:
        end = await node.run(f'python3 -c "{MAKE.format(1, FILES)}"')
        assert (end["status"], end["message"]) == ("Completed", "")
        found = (await node.client.get(f"/v1/attempts/{KEY}/files")).json()["entries"]
        assert sum(entry["path"].startswith("0/") for entry in found) == FILES
