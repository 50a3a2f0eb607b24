"""Calls in threads that stay."""

from __future__ import annotations

import errno
import gc
import os
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

import pytest
import trio

from actors.process.kept_threads import KeptThreads


async def _cancel_when_all_wait(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_calls_have_their_answers_and_their_errors_and_one_thread_after_the_other() -> None:
    threads = KeptThreads("some", 3)
    seen = {await threads.run(threading.get_ident) for _ in range(20)}
    assert len(seen) == 1 and threading.get_ident() not in seen
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_as_many_threads_as_calls_and_no_more_than_may_be() -> None:
    threads, gate, begun = KeptThreads("some", 2), SimpleQueue[None](), SimpleQueue[str]()
    order: list[str] = []

    async def call(name: str) -> None:
        await threads.run(lambda: (begun.put(name), gate.get()))
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(call, name)
        first = {await trio.to_thread.run_sync(begun.get) for _ in range(2)}
        await trio.testing.wait_all_tasks_blocked()
        assert begun.empty() and threads.under_way == 3
        gate.put(None)
        third = await trio.to_thread.run_sync(begun.get)
        assert {*first, third} == {*"abc"}
        gate.put(None)
        gate.put(None)
    assert sorted(order) == ["a", "b", "c"] and threads.under_way == 0


async def test_one_thread_takes_calls_in_their_order() -> None:
    threads, asked, done = KeptThreads("one", 1), list[int](), list[int]()

    async def call(number: int) -> None:
        asked.append(number)
        await threads.run(done.append, number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(call, number)
    assert len(done) == 50 and done == asked


async def test_a_call_is_not_begun_when_cancelled_and_ends_once_begun() -> None:
    threads, done = KeptThreads("one", 1), list[str]()
    begun, gate = SimpleQueue[None](), SimpleQueue[None]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await threads.run(done.append, "never")
    assert scope.cancelled_caught and done == []

    def work() -> None:
        begun.put(None)
        gate.get()
        done.append("all of it")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, work)
        await trio.to_thread.run_sync(begun.get)
        nursery.cancel_scope.cancel()
        gate.put(None)
    assert done == ["all of it"]


async def test_a_call_that_waits_is_not_taken_back_where_it_counts_as_under_way() -> None:
    threads, gate, done = KeptThreads("one", 1, takes_back=False), SimpleQueue[None](), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.get)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(threads.run, done.append, "done")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        gate.put(None)
    assert done == ["done"]


async def test_a_call_is_taken_back_while_it_waits_for_a_thread() -> None:
    threads, gate, done = KeptThreads("one", 1), SimpleQueue[None](), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.get)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_all_wait, scope)
            await threads.run(done.append, "never")
        assert scope.cancelled_caught and threads.under_way == 1
        gate.put(None)
        await threads.run(done.append, "the next")
    assert done == ["the next"] and threads.under_way == 0


async def test_without_a_thread_to_be_had_it_says_so_unless_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, gate = KeptThreads("some", 2), SimpleQueue[None]()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            await threads.run(int)
    assert await threads.run(int) == 0
    monkeypatch.setattr(threading.Thread, "start", start)
    answers = list[int]()

    async def wait() -> None:
        answers.append(await threads.run(int))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.get)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        gate.put(None)
    assert answers == [0]


async def test_the_threads_end_when_nobody_has_them_any_more() -> None:
    threads, mine = KeptThreads("some", 2), list[threading.Thread]()
    barrier = threading.Barrier(2)

    def work() -> None:
        mine.append(threading.current_thread())
        barrier.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, work)
        nursery.start_soon(threads.run, work)
    assert len(mine) == 2
    del threads, nursery
    gc.collect()
    for thread in mine:
        await trio.to_thread.run_sync(partial(thread.join, 30))
        assert not thread.is_alive()


def _count_descriptors() -> int:
    """Those of the kind that such threads open: a thread that another test has left may have others."""
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that has listed these
            kinds.append(os.readlink(f"/proc/self/fd/{name}"))
    return kinds.count("anon_inode:[eventfd]")


async def test_more_calls_than_threads_take_no_more_descriptors_and_all_are_closed() -> None:
    gc.collect()
    before = _count_descriptors()
    threads, gate, answers = KeptThreads("some", 2), SimpleQueue[int](), list[int]()

    async def call(threads: KeptThreads) -> None:
        answers.append(await threads.run(gate.get))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(call, threads)
        await trio.testing.wait_all_tasks_blocked()
        assert _count_descriptors() == before + 2
        for number in range(10):
            gate.put(number)
    assert sorted(answers) == [*range(10)] and threads.under_way == 0
    assert await threads.run(int) == 0
    assert _count_descriptors() == before + 2
    del threads, nursery
    gc.collect()
    assert _count_descriptors() == before


async def test_without_descriptors_calls_have_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "eventfd", refuse)
    threads, gate, done = KeptThreads("one", 1), SimpleQueue[None](), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.get)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_all_wait, scope)
            await threads.run(done.append, "never")
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
        gate.put(None)
    await threads.run(done.append, "the next")
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    assert done == ["the next"] and threads.under_way == 0


async def test_where_the_kernel_watches_no_more_descriptors_what_has_begun_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(_: object) -> None:
        raise OSError(errno.ENOSPC, "no room to watch it")

    monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)
    threads, gate, done = KeptThreads("one", 1, takes_back=False), SimpleQueue[int](), list[int]()
    begun = SimpleQueue[None]()

    async def call() -> None:
        done.append(await threads.run(lambda: (begun.put(None), gate.get())[1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.to_thread.run_sync(begun.get)
        nursery.cancel_scope.cancel()
        gate.put(7)
    assert done == [7] and await threads.run(divmod, 7, 2) == (3, 1)


async def test_what_was_taken_back_wakes_no_later_call() -> None:
    threads, gate, done = KeptThreads("some", 2), SimpleQueue[None](), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.get)
        nursery.start_soon(threads.run, gate.get)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_all_wait, scope)
            await threads.run(done.append, "never")
        assert scope.cancelled_caught
        gate.put(None)
        gate.put(None)
    for number in range(20):
        await threads.run(done.append, str(number))
        assert done[-1] == str(number)
