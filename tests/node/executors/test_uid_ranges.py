"""Users that are nobody else: which range is taken, and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from node.confinement.landlock import find_abi
from node.confinement.tier_settings import RANGES, UidRange
from node.executors import shepherd_executor
from node.executors.executor import ExecutorError
from node.executors.shepherd_executor import ShepherdExecutor
from node.executors.uids import find_trouble
from tests.node.executors.conftest import Payloads

FIRST, SECOND = RANGES


async def start(made: ShepherdExecutor) -> str:
    """What the executor says of itself, once it has started."""
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve)
        said = f"{made.name}: {made.limits}"
        nursery.cancel_scope.cancel()
    return said


def refuse(monkeypatch: pytest.MonkeyPatch, *refused: UidRange) -> None:
    """The kernel takes no uid of these ranges."""

    def look(ranges: UidRange, directory: Path) -> str:
        return f"files cannot be given to uid {ranges.first}" if ranges in refused else ""

    monkeypatch.setattr(shepherd_executor, "find_trouble", look)


async def test_where_no_range_can_be_had_jobs_run_as_the_node_does_and_the_start_says_why(
    payloads: Payloads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(monkeypatch, FIRST, SECOND)
    said = await start(ShepherdExecutor(payloads.directory, tier="auto"))
    assert "as a user of its own" not in said
    (line,) = [each for each in caplog.messages if "uids of their own" in each]
    trouble = f"files cannot be given to uid {FIRST.first}"
    assert line == f"scripts have no uids of their own, and run as this node's user: {trouble}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives uids")
async def test_where_the_first_range_cannot_be_had_the_second_is_taken(
    payloads: Payloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, FIRST)
    made = ShepherdExecutor(payloads.directory, tier="auto")
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve)
        spec = payloads.make("id -u > uid")
        await (await made.start(spec)).wait()
        nursery.cancel_scope.cancel()
    assert int((spec.work / "uid").read_text()) in SECOND


async def test_a_range_that_was_asked_for_and_cannot_be_had_is_no_start(
    payloads: Payloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, FIRST)
    with pytest.raises(ExecutorError, match=f"uids of their own: files cannot be given to uid {FIRST.first}"):
        with trio.fail_after(60):
            await ShepherdExecutor(payloads.directory, tier="auto", uids=FIRST).serve()


def test_trouble_is_found_by_trying(tmp_path: Path) -> None:
    here = os.geteuid()
    assert find_trouble(UidRange(here, here), tmp_path) == ""
    assert "files cannot be given to uid" in find_trouble(FIRST, tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() != 0 or find_abi() == 0, reason="only root gives uids; needs Landlock")
async def test_where_such_a_user_does_not_get_to_its_files_it_is_told_what_is_closed(
    payloads: Payloads, caplog: pytest.LogCaptureFixture
) -> None:
    payloads.directory.chmod(0o700)
    said = await start(ShepherdExecutor(payloads.directory, tier="landlock"))
    assert "as a user of its own" not in said
    assert f"only when others may enter {payloads.directory} (chmod o+x)" in caplog.text
