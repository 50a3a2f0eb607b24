"""Asking all of a batch job to end: nobody is left to the end of the grace."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from itertools import chain, count, repeat

import pytest

from node.executors.slurm import batch_program


def ask(monkeypatch: pytest.MonkeyPatch, lists: Iterable[list[int]], gone: int = 0) -> list[tuple[int, int]]:
    """Ask those who are listed one time after the other; who was signalled, and how."""
    heard: list[tuple[int, int]] = []
    following = iter(lists)

    def kill(pid: int, number: int) -> None:
        if pid == gone:
            raise ProcessLookupError
        heard.append((pid, number))

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(batch_program, "_descendants", lambda: next(following))
    batch_program._ask_all()
    return heard


def test_who_was_forked_before_its_parent_was_asked_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = ask(monkeypatch, chain([[5], [5, 6], [6, 7]], repeat([6, 7])))
    assert heard == [(pid, number) for pid in (5, 6, 7) for number in (signal.SIGTERM, signal.SIGCONT)]


def test_who_has_gone_meanwhile_keeps_nobody_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = ask(monkeypatch, chain([[5, 6, 7]], repeat([7])), gone=6)
    assert [pid for pid, number in heard if number == signal.SIGTERM] == [5, 7]


def test_who_forks_for_ever_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = count(5)
    heard = ask(monkeypatch, ([next(pids)] for _ in repeat(None)))
    assert heard[0] == (5, signal.SIGTERM) and len(heard) < 100
