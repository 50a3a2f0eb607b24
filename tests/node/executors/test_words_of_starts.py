"""The word that somebody has set out to start a payload: its shepherd has it count, and may die amid it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from node.executors import mark_files
from node.executors.executor import RunEnd, RunSpec, StartedBefore
from node.executors.shepherd_executor import ShepherdExecutor
from node.executors.shepherded_run import give_up, read_run_mark
from tests.node.executors.conftest import WAYS, Signpost

WORD = b"{}"
PLAIN = [way for way in WAYS if way[1] == "bash"]
"""What a script may is all one here."""


@pytest.fixture(params=PLAIN, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    isolation, tier = request.param
    return isolation, tier


def _ready(spec: RunSpec) -> RunSpec:
    (spec.directory / mark_files.READY).write_bytes(WORD)
    return spec


def _words(spec: RunSpec) -> dict[str, bytes]:
    names = (mark_files.READY, mark_files.WORD)
    return {name: (spec.directory / name).read_bytes() for name in names if (spec.directory / name).exists()}


async def test_it_counts_before_the_script_begins(executor, payloads):
    spec = _ready(payloads.make("cd .. && ls ready running > work/there 2> /dev/null; exit 3"))
    run = await executor.start(spec)
    assert _words(spec) == {"running": WORD}
    with trio.fail_after(30):
        assert (await run.wait()).exit_code == 3


async def test_one_that_was_left_before_stays(executor, payloads):
    spec = payloads.make("exit 3")
    (spec.directory / mark_files.WORD).write_bytes(WORD)
    with trio.fail_after(30):
        assert (await (await executor.start(spec)).wait()).exit_code == 3
    assert _words(spec) == {"running": WORD}


async def test_it_does_not_make_a_payload_start_that_was_given_up(executor, payloads):
    spec = _ready(payloads.make("touch ran"))
    give_up(spec)
    with pytest.raises(StartedBefore):
        await executor.start(spec)
    found = await executor.adopt(spec)
    assert isinstance(found, RunEnd) and found.never_started
    assert not (spec.work / "ran").exists()


async def test_where_it_cannot_count_nothing_starts(executor, payloads):
    spec = _ready(payloads.make("touch ran"))
    (spec.directory / mark_files.WORD).mkdir()
    (spec.directory / mark_files.WORD / "full").touch()
    with pytest.raises(Exception, match="Is a directory"):
        await executor.start(spec)
    assert read_run_mark(spec) is None and not (spec.work / "ran").exists()


async def _idle(executor: ShepherdExecutor, spec: RunSpec) -> int:
    """The pid of a shepherd that waits for the next payload, and is stopped: so it does not see that."""
    run = await executor.start(spec)
    with trio.fail_after(30):
        await run.wait()
    os.kill(run.pid, signal.SIGSTOP)
    return run.pid


class Late:
    """`spec`: a payload that a node has handed to `shepherd`, which has not seen it yet. That node has died
    since, and `executor` is of the next one."""

    def __init__(self, spec: RunSpec, post: Signpost, shepherd: int, executor: ShepherdExecutor) -> None:
        self.spec, self.post, self.shepherd, self.executor = spec, post, shepherd, executor


@pytest.fixture
async def late(payloads, isolation, tier, nursery, signpost) -> AsyncIterator[Late]:
    spec = _ready(payloads.make("echo ran >> ran; echo up > signpost; exit 3"))
    post = signpost(spec)
    first, then = (ShepherdExecutor(payloads.directory, isolation, tier=tier) for _ in range(2))
    async with trio.open_nursery() as of_first:
        await of_first.start(first.serve)
        shepherd = await _idle(first, payloads.make("exit 0"))
        of_first.start_soon(first.start, spec)
        await trio.testing.wait_all_tasks_blocked()
        of_first.cancel_scope.cancel()
    await nursery.start(then.serve)
    yield Late(spec, post, shepherd, then)
    nursery.cancel_scope.cancel()


NAMESPACED = pytest.mark.parametrize(
    "way", [way for way in PLAIN if way[0] != "subreaper"], ids="-".join, indirect=True
)
"""Without namespaces each payload has a shepherd of its own."""


@NAMESPACED
async def test_who_comes_late_starts_nothing_that_the_next_node_has_started(late, payloads):
    run = await late.executor.start(late.spec)
    with trio.fail_after(30):
        os.kill(late.shepherd, signal.SIGCONT)
        assert (await run.wait()).exit_code == 3
        await payloads.ended(late.shepherd)
    assert (late.spec.work / "ran").read_text() == "ran\n" and _words(late.spec) == {"running": WORD}


@NAMESPACED
@pytest.mark.parametrize("anew", [False, True])
async def test_who_comes_late_starts_what_the_next_node_has_withdrawn_only_if_it_starts_it(
    late, payloads, anew
):
    (late.spec.directory / mark_files.READY).rename(late.spec.directory / mark_files.WITHDRAWN)
    if anew:
        (late.spec.directory / mark_files.WORD).write_bytes(WORD)
    os.kill(late.shepherd, signal.SIGCONT)
    with trio.fail_after(30):
        await payloads.ended(late.shepherd)
    assert (read_run_mark(late.spec) is not None, (late.spec.work / "ran").exists()) == (anew, anew)


@NAMESPACED
async def test_the_next_node_finds_what_was_started_late(late):
    os.kill(late.shepherd, signal.SIGCONT)
    assert await late.post.line() == "up"
    assert _words(late.spec) == {"running": WORD}
    with pytest.raises(StartedBefore):
        await late.executor.start(late.spec)
    found = await late.executor.adopt(late.spec)
    with trio.fail_after(30):
        end = found if isinstance(found, RunEnd) else await found.wait()
    assert end.exit_code == 3 and (late.spec.work / "ran").read_text() == "ran\n"


@NAMESPACED
@pytest.mark.parametrize("counts", [False, True])
async def test_the_next_node_starts_what_a_killed_shepherd_has_not(late, counts):
    os.kill(late.shepherd, signal.SIGKILL)
    if counts:
        (late.spec.directory / mark_files.READY).rename(late.spec.directory / mark_files.WORD)
    with trio.fail_after(30):
        assert (await (await late.executor.start(late.spec)).wait()).exit_code == 3
    assert _words(late.spec) == {"running": WORD}


@NAMESPACED
@pytest.mark.parametrize("counts", [False, True])
async def test_the_same_node_has_another_shepherd_start_what_a_killed_one_has_not(executor, payloads, counts):
    spec = _ready(payloads.make("exit 3"))
    shepherd = await _idle(executor, payloads.make("exit 0"))
    codes: list[int | None] = []

    async def start() -> None:
        codes.append((await (await executor.start(spec)).wait()).exit_code)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await trio.testing.wait_all_tasks_blocked()
            if counts:
                (spec.directory / mark_files.READY).rename(spec.directory / mark_files.WORD)
            os.kill(shepherd, signal.SIGKILL)
    assert codes == [3] and _words(spec) == {"running": WORD}
