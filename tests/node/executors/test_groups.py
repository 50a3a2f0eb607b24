"""Groups that the scripts of a service belong to: given to those of its jobs, or refused, never left out."""

from __future__ import annotations

import grp
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from node.confinement.grants import Grants
from node.confinement.tier_settings import NO_UIDS, RANGES, TierName
from node.executors import shepherd_executor
from node.executors.executor import HOME, STDERR, STDOUT, ExecutorError, RunSpec
from node.executors.shepherd_executor import Isolation, ShepherdExecutor
from tests.node.executors.conftest import WAYS, Payloads

GROUPS: Final = [each for each in grp.getgrall() if each.gr_gid not in (0, os.getegid(), 65534)][:2]
SECRET: Final = "of the group alone\n"

pytestmark = pytest.mark.skipif(len(GROUPS) < 2, reason="there are no groups here to be given")
root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives uids")


@asynccontextmanager
async def serving(executor: ShepherdExecutor) -> AsyncIterator[ShepherdExecutor]:
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        yield executor
        nursery.cancel_scope.cancel()


async def serve(executor: ShepherdExecutor) -> None:
    """Until it says why it cannot start."""
    with trio.fail_after(60):
        await executor.serve()


@pytest.fixture
def database(open_directory: Path) -> Path:
    """A directory with a file for each of the groups, which nobody else reads."""
    directory = open_directory / "database"
    directory.mkdir()
    for group in GROUPS:
        (directory / group.gr_name).write_text(SECRET)
        (directory / group.gr_name).chmod(0o640)
        os.chown(directory / group.gr_name, -1, group.gr_gid)
    return directory


async def read_all(executor: ShepherdExecutor, spec: RunSpec) -> dict[str, bool]:
    """Which of the database's files a job reads, by their groups."""
    (spec.directory / HOME).mkdir()
    with trio.fail_after(60):
        end = await (await executor.start(spec)).wait()
    assert (end.exit_code, (spec.directory / STDERR).read_text()) == (0, "")
    said = (spec.directory / STDOUT).read_text().split()
    return {group.gr_name: group.gr_name in said for group in GROUPS}


@root_alone
@pytest.mark.parametrize(("isolation", "tier"), [way for way in WAYS if way[0] != "userns"])
async def test_a_job_reads_what_a_group_of_its_service_may_and_no_other_job_does(
    payloads: Payloads, database: Path, isolation: Isolation, tier: TierName
) -> None:
    one, other = (group.gr_name for group in GROUPS)
    grants = [
        Grants(read=(database,), groups=groups) for groups in ((one,), (other, one), (), (one, other, one))
    ]
    script = f"cd {database}; for each in *; do {{ read -r _ < $each; }} 2> /dev/null && echo $each; done; :"
    made = ShepherdExecutor(payloads.directory, isolation, tier=tier, uids=RANGES[0], grants=grants)
    met = []
    async with serving(made):
        for each in grants:
            met.append(await read_all(made, replace(payloads.make(script), grants=each)))
    assert met == [{group.gr_name: group.gr_name in each.groups for group in GROUPS} for each in grants]


@pytest.mark.parametrize("tier", ["auto", "landlock", "bash"])
async def test_a_node_that_cannot_give_them_does_not_start_and_says_which(
    payloads: Payloads, tier: TierName
) -> None:
    grants = Grants(groups=(GROUPS[0].gr_name,))
    made = ShepherdExecutor(payloads.directory, tier=tier, uids=NO_UIDS, grants=(grants,))
    with pytest.raises(ExecutorError, match=f"groups .*{GROUPS[0].gr_name}.* uids of their own"):
        await serve(made)


async def test_nor_one_that_gets_no_uids_though_it_asks_for_none(
    payloads: Payloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shepherd_executor, "find_trouble", lambda ranges, directory: f"none of {ranges}")
    made = ShepherdExecutor(payloads.directory, grants=(Grants(groups=(GROUPS[0].gr_name,)),))
    with pytest.raises(ExecutorError) as caught:
        await serve(made)
    assert f"none of {RANGES[0]}" in str(caught.value) and GROUPS[0].gr_name in str(caught.value)


async def test_nor_one_on_whose_machine_there_is_no_such_group(payloads: Payloads) -> None:
    made = ShepherdExecutor(payloads.directory, grants=(Grants(groups=("no such group",)),))
    with pytest.raises(ExecutorError, match="no group 'no such group' on this machine"):
        await serve(made)


@root_alone
async def test_a_job_whose_group_came_after_the_start_is_refused(payloads: Payloads) -> None:
    made = ShepherdExecutor(payloads.directory, tier="bash", uids=RANGES[0])
    async with serving(made):
        spec = replace(payloads.make("echo ran"), grants=Grants(groups=(GROUPS[0].gr_name,)))
        with pytest.raises(ExecutorError, match=f"no group '{GROUPS[0].gr_name}' when this node started"):
            await made.start(spec)
        assert not (spec.directory / STDOUT).exists()
