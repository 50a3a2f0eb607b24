"""A script that does away with what is its own: that is said where a person looks."""

from __future__ import annotations

from pathlib import Path

from support.processes.node_processes import node_process

WORK = "its directory with all that it left"
CASES = [
    ('rm -rf "$PWD"; exit 0', f"removed by the script: {WORK}"),
    ('mv "$PWD" "$HOME/elsewhere"', f"removed by the script: {WORK}"),
    ("cd ..; mv work w; ln -s w work", f"removed by the script: {WORK}"),
    ("rm ../stdout.log", "removed by the script: stdout.log"),
    ("rm -rf ../* 2>/dev/null; exit 0", f"removed by the script: {WORK}, stdout.log, stderr.log"),
    ('rm -rf "$PWD"; exit 3', f"exit code 3; removed by the script: {WORK}"),
    ("rm -rf * ; exit 0", ""),
]


async def test_what_a_script_removed_of_its_own_is_told(tmp_path: Path) -> None:
    async with node_process(tmp_path) as node:
        for n, (script, message) in enumerate(CASES):
            end = await node.run(script, f"{n:032x}")
            status = "Failed" if "exit 3" in script else "Completed"
            assert (end["status"], end["message"]) == (status, message), script


async def test_a_flood_of_progress_takes_no_room(tmp_path: Path) -> None:
    key = "a" * 32
    async with node_process(tmp_path) as node:
        script = (
            'timeout 4 yes "0.5 a" > "$ORCHESTRATOR_PROGRESS"; du -k "$ORCHESTRATOR_PROGRESS" | cut -f1 > kib'
        )
        assert (await node.run(script, key))["status"] == "Completed"
        kib = (await node.client.get(f"/v1/attempts/{key}/files/kib")).text
        # A tenth of a second of it, on any disk.
        assert int(kib) < 1 << 20
