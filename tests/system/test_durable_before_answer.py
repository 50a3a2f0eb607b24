"""The order of an upload's durability in a real server: nobody is told of a job that a crash could undo."""

from __future__ import annotations

import sys
from pathlib import Path

from support.peers.portals import portal
from support.processes.processes import Place, Started

PROGRAM = Path(__file__).parents[1] / "support" / "processes" / "traced_server_program.py"


def traced_server(here: Place, trace: Path) -> Started:
    data = here.directory / "server"
    environment = {
        "DB_PATH": str(data / "db.sqlite"),
        "DATA_PATH": str(data / "data"),
        "SERVICE_EXAMPLE_NODES": "http://127.0.0.1:9",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = (sys.executable, str(PROGRAM), str(trace))
    return here.start("server", "--port", "0", name="server", command=command, environment=environment)


async def test_a_small_job_and_its_files_are_committed_together_and_only_then_201(here: Place) -> None:
    trace = here.directory / "trace"
    server = traced_server(here, trace)
    async with portal(server.url) as user:
        await user.upload("true")  # for the first id of a block, the block is noted before
        began = len(trace.read_text().splitlines())
        await user.upload("true", files={"sub/in.pdb": b"ATOM"})
        await user.upload("true", files={"sub/in.pdb": b"ATOM"})
    steps = trace.read_text().splitlines()[began:]
    told = [number for number, step in enumerate(steps) if step.startswith("sent HTTP/1.1 201")]
    assert len(told) == 2
    for since, answered in zip((0, told[0]), told, strict=True):
        # A statement is traced again for each of its triggers.
        inserted = next(n for n in range(since, answered) if steps[n].startswith("sql INSERT INTO jobs ("))
        committed = steps.index("sql COMMIT", inserted)
        assert [step for step in steps[inserted:committed] if step.startswith("sql INSERT INTO small_inputs")]
        assert committed < answered
    everything = trace.read_text().splitlines()
    pragmas = [step for step in everything if step.startswith("sql PRAGMA synchronous = ")]
    assert pragmas[-1] == "sql PRAGMA synchronous = FULL"
    # Nothing else is synced than the commits.
    assert not [step for step in steps if step.startswith(("fsync", "rename"))]


async def test_files_directories_rename_parent_commit_and_only_then_201(here: Place) -> None:
    trace = here.directory / "trace"
    server = traced_server(here, trace)
    assert any(
        "synchronous" in line.lower() and "full" in line.lower() for line in trace.read_text().splitlines()
    )
    async with portal(server.url) as user:
        await user.upload("true")
        began = len(trace.read_text().splitlines())
        await user.upload("true", files={"sub/in.pdb": b"ATOM" * 20_000})
    data = here.directory / "server" / "data"
    (job,) = (data / "jobs").glob("*/*")
    incoming = data / "incoming" / job.name
    steps = trace.read_text().splitlines()[began:]
    (renamed,) = (number for number, step in enumerate(steps) if step == f"rename {incoming} {job}")
    synced = {step.removeprefix("fsync ") for step in steps[:renamed] if step.startswith("fsync ")}
    names = ("", "/job.json", "/input", "/input/run.sh", "/input/sub", "/input/sub/in.pdb")
    assert synced >= {f"{incoming}{name}" for name in names}
    # A directory after what is in it.
    assert steps.index(f"fsync {incoming}/input/run.sh") < steps.index(f"fsync {incoming}/input")
    assert steps.index(f"fsync {incoming}/input/sub/in.pdb") < steps.index(f"fsync {incoming}/input/sub")
    rest = steps[renamed:]
    parent = rest.index(f"fsync {job.parent}")
    inserted = next(number for number, step in enumerate(rest) if step.startswith("sql INSERT INTO jobs"))
    committed = next(number for number, step in enumerate(rest) if step == "sql COMMIT")
    answered = next(number for number, step in enumerate(rest) if step.startswith("sent HTTP/1.1 201"))
    assert parent < inserted < committed < answered
    assert not any(step.startswith("sql INSERT INTO jobs") for step in steps[:renamed])
