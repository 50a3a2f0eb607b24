"""The provider `slurm`, against a real Slurm of this machine and against lists that a small one cannot
give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.processes.processes import PATIENCE
from support.processes.slurm_cluster import MISSING, SlurmCluster, slurm_cluster

from actors.domain.scaling import Machine, MachineEnd, UnreadableMachine
from actors.ports.scaling import ProviderError
from orchestrator.config.scaling import SlurmSettings
from orchestrator.scaling.providers.slurm import SlurmProvider, batch_script

OWNER, OTHER = "0" * 32, "f" * 32
TOKENS = ["1" * 32, "2" * 32, "3" * 32]
PAUSE = 0.25
"""Seconds until Slurm, which tells nobody, is asked again: each time takes two processes."""
needs_slurm = pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}")


def provider(here: Path, owner: str = OWNER, **settings: object) -> SlurmProvider:
    made = SlurmSettings(**{"max_runtime": 600.0, "node_command": "sleep 600 #", **settings})  # type: ignore[arg-type]
    return SlurmProvider(
        made, slots={"a": 2}, idle={"a": 60.0}, join_url="http://h", owner=owner, scripts=here / "scripts"
    )


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path, cpus=1) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


async def listed(of: SlurmProvider, *, running: bool, token: str = "") -> dict[str, Machine]:
    """By token, once one of them, or that one, runs or has ended."""
    with trio.fail_after(PATIENCE):
        while True:
            found = {one.token: one for one in await of.list() if isinstance(one, Machine)}
            looked_at = [found[token]] if token else found.values()
            if any(one.running if running else one.ended is not None for one in looked_at):
                return found
            await trio.sleep(PAUSE)


@needs_slurm
async def test_allocations_are_made_once_told_and_ended(tmp_path: Path, cluster: SlurmCluster) -> None:
    ours, others = provider(tmp_path), provider(tmp_path, OTHER)
    first = await ours.create(TOKENS[0], "a")
    assert (first.token, first.owner, first.waiting) == (TOKENS[0], OWNER, True)
    assert (await ours.create(TOKENS[0], "a")).machine_id == first.machine_id
    await listed(ours, running=True)
    second, foreign = await ours.create(TOKENS[1], "a"), await others.create(TOKENS[2], "a")
    found = await listed(ours, running=True)
    assert found[TOKENS[0]].running and not found[TOKENS[0]].waiting
    # The one core is taken.
    assert found[TOKENS[1]].waiting and found[TOKENS[1]].note.startswith("waits in Slurm")
    assert found[TOKENS[2]].owner == OTHER

    await ours.terminate([second.machine_id, foreign.machine_id, "4711"])
    await ours.terminate([first.machine_id])
    with trio.fail_after(PATIENCE):
        while None in (ended := [found[token].ended for token in TOKENS[:2]]):
            found = await listed(ours, running=False)
    assert [one and one.reason.startswith("Slurm says CANCELLED") for one in ended] == [True, True], ended
    assert found[TOKENS[2]].ended is None
    with pytest.raises(ProviderError, match="has ended already") as refused:
        await ours.create(TOKENS[0], "a")
    assert refused.value.certain
    assert list((tmp_path / "scripts").iterdir()) == []


@needs_slurm
async def test_what_was_preempted_is_no_failure(tmp_path: Path, cluster: SlurmCluster) -> None:
    ours = provider(tmp_path, partition="main")
    # An allocation is submitted so that Slurm does not put it in again: it cancels it then, too.
    for token, mode, grace in zip(TOKENS, ("CANCEL", "REQUEUE", "CANCEL"), (0, 0, 2), strict=True):
        how = (f"PreemptMode={mode}", f"GraceTime={grace}")
        cluster.run("scontrol", "update", "PartitionName=main", *how)
        await ours.create(token, "a")
        await listed(ours, running=True)
        cluster.run("sbatch", "--partition=first", "--output=/dev/null", "--wrap=true")
        ended = (await listed(ours, running=False, token=token))[token].ended
        assert ended == MachineEnd("Slurm says PREEMPTED", blameless=True)


@needs_slurm
async def test_without_a_controller_nothing_is_known_and_nothing_was_done(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    ours = provider(tmp_path, deadline=3.0)
    await ours.create(TOKENS[0], "a")
    cluster.stop_controller()
    with pytest.raises(ProviderError):
        await ours.list()
    with pytest.raises(ProviderError) as refused:
        await ours.create(TOKENS[1], "a")
    assert refused.value.certain
    with pytest.raises(ProviderError):
        await ours.terminate(["1"])
    cluster.begin_controller()
    with trio.fail_after(PATIENCE):
        while True:
            try:
                assert {one.token for one in await ours.list() if isinstance(one, Machine)} == {TOKENS[0]}
                break
            except ProviderError:
                await trio.sleep(PAUSE)


NAME = f"jobo-{OWNER}-{TOKENS[0]}-a"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"7|RUNNING|{NAME}|None", Machine("7", TOKENS[0], "a", running=True, owner=OWNER)),
        (
            f"7|PENDING|{NAME}|Priority",
            Machine(
                "7", TOKENS[0], "a", running=False, owner=OWNER, waiting=True, note="waits in Slurm: Priority"
            ),
        ),
        (
            f"7|NODE_FAIL|{NAME}|None",
            Machine(
                "7",
                TOKENS[0],
                "a",
                running=False,
                owner=OWNER,
                ended=MachineEnd("Slurm says NODE_FAIL", blameless=True),
            ),
        ),
        (f"7|A_STATE_OF_NEXT_YEAR|{NAME}|None", Machine("7", TOKENS[0], "a", running=True, owner=OWNER)),
        ("8|RUNNING|a person's own|None", None),
        ("8|RUNNING|jobo-but no token-a|None", None),
        ("", None),
        (f"7_1|RUNNING|{NAME}|None", UnreadableMachine),
        (f"7|RUNNING|{NAME[:50]}", UnreadableMachine),
    ],
)
async def test_lines_of_squeue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: object
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "squeue").write_text(f"#!/bin/sh\ncat <<'END'\n{line}\nEND\n")
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    found = list(await provider(tmp_path).list())
    if expected is None:
        assert [one for one in found if isinstance(one, Machine) and one.ended is None] == []
    elif expected is UnreadableMachine:
        assert [type(one) for one in found] == [UnreadableMachine]
    else:
        assert found == [expected]


async def test_slurm_is_told_nothing_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "squeue").write_text("#!/bin/sh\n")
    (programs / "sbatch").write_text(
        f"#!/bin/sh\nenv > {tmp_path}/seen\necho $* >> {tmp_path}/seen\necho '12;far'\n"
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    made = await provider(tmp_path, qos="long", arguments=("--constraint=avx2",)).create(TOKENS[0], "a")
    assert made.machine_id == "12"
    seen = (tmp_path / "seen").read_text()
    assert "hidden" not in seen
    for option in ("--qos=long", "--constraint=avx2", f"--job-name={NAME}", "--time=10", "--no-requeue"):
        assert option in seen, option


def test_the_token_is_in_no_argument() -> None:
    script = batch_script(SlurmSettings(600.0, setup="module load python"), TOKENS[0], "a", ["--slots", "2"])
    (line,) = [line for line in script.splitlines() if line.startswith("orchestrator node ")]
    assert TOKENS[0] not in line and "--slots 2" in line
    assert "module load python" in script
