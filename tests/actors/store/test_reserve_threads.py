"""The reserve, held and let go by several threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.store import reserve
from actors.store.reserve import Reserve


def test_what_is_being_held_in_one_thread_is_let_go_whole_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_made, go_on, asked = threading.Event(), threading.Event(), threading.Event()
    made = reserve.create

    def create(path: Path, mode: int = 0o600) -> int:
        if path.name == "8":
            half_made.set()
            assert go_on.wait(60)
        return made(path, mode)

    monkeypatch.setattr(reserve, "create", create)
    one = Reserve(tmp_path / "reserve")

    def let_go() -> bool:
        asked.set()
        return one.let_go()

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(one.hold)
        assert half_made.wait(60)
        letting_go = pool.submit(let_go)
        assert asked.wait(60)
        go_on.set()
        assert (holding.result(60), letting_go.result(60)) == (True, True)
    assert not (tmp_path / "reserve").exists()
