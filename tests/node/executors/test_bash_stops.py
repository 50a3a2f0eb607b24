"""Stopping asks and ends the whole tree, whatever it does against it, and so does the death of a shepherd."""

from __future__ import annotations

import math
import os
import signal

import pytest
import trio
from support.processes.processes import promised

from actors.process import procfs
from node.executors import mark_files, spawner
from node.executors.executor import RunEnd

NASTY = r"""
trap '' TERM INT HUP
setsid bash -c 'trap "" TERM; NAP & echo setsid > signpost; wait' &
nohup bash -c 'NAP & echo nohup > signpost; wait' >/dev/null 2>&1 &
here=$PWD
env -i setsid bash -c 'cd /; (bash -c "trap \"\" TERM; echo double > '$here'/signpost; NAP; :" <&- >&- &) &'
for i in 1 2 3; do (trap '' TERM; NAP) & done
(kill -STOP $BASHPID; NAP) &
echo main > signpost
while :; do NAP; done
"""


@pytest.mark.parametrize("grace", [0.0, 0.2])
async def test_stop_leaves_nothing_of_a_tree_that_resists(executor, payloads, signpost, grace):
    spec = payloads.make(NASTY)
    post = signpost(spec)
    run = await executor.start(spec)
    assert {await post.line() for _ in range(4)} == {"setsid", "nohup", "double", "main"}
    assert len(payloads.survivors()) >= 4
    with trio.fail_after(grace + promised(2)):
        await run.stop(grace)
    assert payloads.survivors() == []
    assert not run.alive()
    assert (await run.wait()).signal == signal.SIGKILL


async def test_a_fork_chain_does_not_outrun_the_kill(executor, payloads, signpost):
    spec = payloads.make("echo up > signpost\nchain() { (sleep 0.001; chain) & }\nchain\nNAP")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    with trio.fail_after(60):
        await run.stop(0)
    assert payloads.survivors() == []


async def test_children_have_their_grace_though_bash_is_gone_at_once(executor, payloads, signpost):
    spec = payloads.make(
        "bash -c 'trap \"sleep 0.1; echo saved > saved; exit\" TERM; NAP & echo up > signpost; wait'; true"
    )
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    with trio.fail_after(60):
        await run.stop(3)
        end = await run.wait()
    assert (spec.work / "saved").read_text() == "saved\n"
    assert end.signal == signal.SIGTERM


async def test_a_script_that_ends_on_request_has_its_own_exit_code(executor, payloads, signpost):
    spec = payloads.make("trap 'exit 4' TERM; echo up > signpost; NAP & wait")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    ends: list[RunEnd] = []

    async def wait() -> None:
        ends.append(await run.wait())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(run.stop, math.inf)
            nursery.start_soon(run.stop, 3)
        await run.stop(3)
        await run.stop(0)
    assert ends[0].exit_code == 4


async def test_a_shepherd_that_is_stopped_is_made_to_go_on(executor, payloads, signpost):
    spec = payloads.make("trap '' TERM; echo up > signpost; while :; do NAP; done")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    os.kill(run.pid, signal.SIGSTOP)
    with trio.fail_after(60):
        await run.stop(0.05)
    assert payloads.survivors() == []
    assert (await run.wait()).signal == signal.SIGKILL


async def test_the_shepherd_keeps_the_grace_itself_when_others_ask_it(executor, payloads, signpost):
    spec = payloads.make("trap '' TERM; echo up > signpost; while :; do NAP; done", grace=0.1)
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    os.kill(run.pid, signal.SIGTERM)
    with trio.fail_after(60):
        assert (await run.wait()).signal == signal.SIGKILL
    assert payloads.survivors() == []


async def test_a_killed_shepherd_takes_all_of_its_payload_along(executor, payloads, signpost):
    spec = payloads.make(NASTY)
    post = signpost(spec)
    run = await executor.start(spec)
    for _ in range(4):
        await post.line()
    os.kill(run.pid, signal.SIGKILL)
    with trio.fail_after(60):
        end = await run.wait()
    assert end.supervision_killed
    assert (end.exit_code, end.signal) == (None, None)
    assert payloads.survivors() == []
    assert (await executor.adopt(spec)).supervision_killed


@pytest.mark.parametrize(("isolation", "tier"), [("subreaper", "bash")])
async def test_without_a_namespace_traces_lead_to_what_is_left_when_the_guard_is_killed_too(
    executor, payloads, signpost
):
    spec = payloads.make("setsid NAP & NAP & echo up > signpost; wait")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    mark = mark_files.unpack((spec.directory / "run").read_bytes())
    os.kill(int(mark["guard"]), signal.SIGKILL)
    os.kill(run.pid, signal.SIGKILL)
    with trio.fail_after(60):
        assert (await run.wait()).supervision_killed
    assert payloads.survivors() == []


async def test_a_script_commands_its_shepherd_only_without_a_namespace(executor, payloads, isolation):
    if isolation == "subreaper":
        spec = payloads.make("kill -USR1 $PPID; NAP")
        with trio.fail_after(60):
            assert (await (await executor.start(spec)).wait()).signal == signal.SIGKILL
        return
    spec = payloads.make("kill -TERM 1; kill -USR1 1; kill -KILL 1; kill -STOP 1; (sleep 0.01); exit 5")
    with trio.fail_after(60):
        assert (await (await executor.start(spec)).wait()).exit_code == 5


@pytest.mark.parametrize(("isolation", "tier"), [("subreaper", "bash")])
async def test_scripts_that_stop_their_shepherds_at_once_are_started_and_can_be_ended(
    executor, payloads, monkeypatch
):
    """Some do so before their start is told."""
    monkeypatch.setattr(spawner, "_NUDGE_EVERY", 0.05)

    async def one() -> None:
        run = await executor.start(payloads.make("kill -STOP $PPID; NAP"))
        await run.stop(0.1)
        assert (await run.wait()).asked

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
    assert payloads.survivors() == []


async def test_what_a_script_leaves_is_told_of_before_it_is_waited_for(executor, payloads):
    with trio.fail_after(60):
        run = await executor.start(payloads.make("NAP & exit 3"))
        assert (await run.wait()).exit_code == 3


async def test_the_next_node_learns_that_an_earlier_one_asked_for_the_end(executor, payloads, signpost):
    spec = payloads.make("trap 'exit 4' TERM; echo up > signpost; NAP & wait")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    # All that a node does before it is killed: the rest is the shepherd's.
    os.kill(run.pid, signal.SIGTERM)
    with trio.fail_after(60):
        await run.wait()
        found = await executor.adopt(spec)
        # A shepherd without a namespace may be there for a moment after it has told the end.
        end = found if isinstance(found, RunEnd) else await found.wait()
    assert (end.exit_code, end.asked) == (4, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_script_that_is_killed_before_its_shepherd_is_told_to_end_has_not_failed(
    executor, payloads, signpost, number
):
    """As when a machine is shut down, which signals all that runs in any order."""
    spec = payloads.make("echo up > signpost; NAP")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    os.kill(run.pid, signal.SIGSTOP)
    for pid in procfs.children(run.pid):
        os.kill(pid, number)
        await payloads.ended(pid)
    os.kill(run.pid, signal.SIGTERM)
    os.kill(run.pid, signal.SIGCONT)
    with trio.fail_after(60):
        assert (await run.wait()).asked


@pytest.mark.parametrize("grace", [0.0, 5.0])
async def test_stopped_payload_says_that_it_was_asked(executor, payloads, signpost, grace):
    spec = payloads.make("echo up > signpost; NAP")
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    with trio.fail_after(60):
        await run.stop(grace)
    assert (await run.wait()).asked


async def test_payload_that_kills_itself_was_not_asked(executor, payloads):
    run = await executor.start(payloads.make("kill -TERM $$"))
    with trio.fail_after(60):
        end = await run.wait()
    assert (end.signal, end.asked) == (signal.SIGTERM, False)
