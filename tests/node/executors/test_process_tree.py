"""Asking all of a payload to end where no namespace holds it together."""

from __future__ import annotations

import os
import signal
from itertools import chain, count, repeat

import pytest

from actors.process import procfs
from node.executors.process_tree import Tree


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []

    def kill(pid: int, number: int) -> None:
        if number == signal.SIGTERM:
            asked.append(pid)

    monkeypatch.setattr(os, "kill", kill)
    return asked


def test_who_was_forked_before_its_parent_was_asked_is_asked_too(
    asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = chain([[5], [5, 6], [6, 7]], repeat([6, 7]))
    monkeypatch.setattr(procfs, "descendants", lambda _own: next(lists))
    Tree(namespaced=False, script=5).ask()
    assert asked == [5, 6, 7]


def test_parents_are_asked_before_their_children(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    lists = chain([[90_003, 7, 90_002, 8]], repeat([]))
    monkeypatch.setattr(procfs, "descendants", lambda _own: next(lists))
    Tree(namespaced=False, script=5).ask()
    assert asked == [90_003, 7, 90_002, 8]


def test_who_forks_for_ever_is_not_waited_for(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    pids = count(5)
    monkeypatch.setattr(procfs, "descendants", lambda _own: [next(pids)])
    Tree(namespaced=False, script=5).ask()
    assert asked[:3] == [5, 6, 7] and len(asked) < 100


@pytest.mark.parametrize("namespaced", [True, False])
def test_where_nothing_is_left_nobody_is_looked_for(
    namespaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait4(pid: int, options: int) -> None:
        raise ChildProcessError

    def fail(*_: object) -> None:
        raise AssertionError("whoever is there is somebody else's")

    monkeypatch.setattr(os, "wait4", wait4)
    monkeypatch.setattr(os, "kill", fail)
    monkeypatch.setattr(procfs, "descendants", fail)
    Tree(namespaced, script=5).end()
