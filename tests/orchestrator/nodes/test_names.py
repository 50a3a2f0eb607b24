"""How nodes are called: as they say, each name once, and kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as some
from support.data.ledgers import open_ledger

from actors.domain.ids import is_node_name
from actors.domain.node import NodeName
from actors.ports.ledger import LedgerError
from orchestrator.nodes import names as names_module
from orchestrator.nodes.names import NodeNames


def test_a_node_is_called_as_it_says_and_a_second_gets_a_number() -> None:
    names = NodeNames()
    for number, said in enumerate(("gpu", "gpu", "cpu", "gpu"), 1):
        names.claim(f"n{number}", said, f"http://{number}")
    assert [names.of(f"n{number}") for number in range(1, 5)] == ["gpu", "gpu-2", "cpu", "gpu-3"]
    assert (names.find("gpu-2"), names.find("nobody")) == ("n2", None)
    assert names.of("unheard-of") == "unheard-of"


def test_a_name_that_a_node_gives_itself_may_be_another_s_with_its_number() -> None:
    names = NodeNames()
    names.claim("n1", "gpu-2", "http://1")
    names.claim("n2", "gpu", "http://2")
    names.claim("n3", "gpu", "http://3")
    assert [names.of(one) for one in ("n1", "n2", "n3")] == ["gpu-2", "gpu", "gpu-3"]


def test_a_node_that_says_nothing_has_its_id_and_loses_no_name() -> None:
    names = NodeNames()
    names.claim("n1", "", "http://1")
    assert (names.of("n1"), names.find("")) == ("n1", None)
    names.claim("n1", "gpu", "http://1")
    names.claim("n1", "", "http://1")
    assert names.of("n1") == "gpu"


def test_nodes_that_left_and_come_back_have_their_names_again_in_any_order() -> None:
    names = NodeNames()
    for one in ("n1", "n2", "n3"):
        names.claim(one, "gpu", f"http://{one}")
    for one in ("n1", "n2", "n3"):
        names.release(one)
    for one in ("n3", "n1", "n2"):
        names.claim(one, "gpu", f"http://{one}:moved")
    assert [names.of(one) for one in ("n1", "n2", "n3")] == ["gpu", "gpu-2", "gpu-3"]
    names.release("n1")
    names.claim("n4", "gpu", "http://n4")
    names.claim("n1", "gpu", "http://n1")
    assert (names.of("n4"), names.of("n1")) == ("gpu", "gpu-4"), "it was free, and another's by then"


def test_a_node_may_be_called_otherwise_later_and_move() -> None:
    names = NodeNames()
    names.claim("n1", "gpu", "http://1")
    names.claim("n2", "gpu", "http://2")
    names.claim("n2", "gpu", "http://moved")
    assert names.of("n2") == "gpu-2"
    names.claim("n2", "other", "http://moved")
    assert (names.of("n2"), names.find("gpu-2")) == ("other", None)


def test_what_a_node_was_called_that_left_is_remembered_until_another_is_called_so() -> None:
    names = NodeNames()
    names.claim("n1", "gpu", "http://1")
    names.release("n1")
    assert (names.of("n1"), names.find("gpu")) == ("gpu", None)
    names.claim("n2", "gpu", "http://2")
    assert (names.of("n2"), names.find("gpu")) == ("gpu", "n2")
    names.claim("n1", "gpu", "http://1")
    assert (names.of("n1"), names.of("n2")) == ("gpu-2", "gpu")


def test_who_was_at_an_address_before_has_left() -> None:
    # A machine that was set up anew: it is the same for people.
    names = NodeNames()
    names.claim("old", "gpu", "http://1")
    names.claim("new", "gpu", "http://1")
    assert (names.of("new"), names.find("gpu")) == ("gpu", "new")


def test_of_nodes_that_left_a_bounded_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "MOST_LEFT", 2)
    names = NodeNames()
    for number in range(4):
        names.claim(f"n{number}", f"gpu{number}", f"http://{number}")
        names.release(f"n{number}")
    assert [names.of(f"n{number}") for number in range(4)] == ["n0", "n1", "gpu2", "gpu3"]


_STEPS = some.lists(
    some.tuples(
        some.sampled_from(["a", "b", "c", "d"]),
        some.sampled_from(["", "gpu", "gpu-2", "cpu"]),
        some.sampled_from(["http://1", "http://2", "http://3"]),
        some.booleans(),
    )
)


class Kept:
    """What would stand in the ledger."""

    def __init__(self) -> None:
        self.rows: dict[str, NodeName] = {}
        self.fails = 0
        self.stored = trio.Event()

    async def store_node_names(self, names: Iterable[NodeName], gone: Iterable[str]) -> None:
        if self.fails:
            self.fails -= 1
            raise LedgerError("the disk is full")
        for node_id in gone:
            self.rows.pop(node_id, None)
        for one in names:
            self.rows.pop(one.node_id, None)
            self.rows[one.node_id] = one
        self.stored.set()


@given(_STEPS)
def test_whatever_happens_a_name_is_one_node_s_and_those_there_are_found_by_it(
    steps: list[tuple[str, str, str, bool]],
) -> None:
    names = NodeNames()
    there: dict[str, str] = {}
    for node_id, said, url, leaves in steps:
        if leaves:
            names.release(node_id)
            there.pop(node_id, None)
        else:
            names.claim(node_id, said, url)
            if said:
                there = {other: at for other, at in there.items() if at != url}
                there[node_id] = url
        assert len({names.of(one) for one in there}) == len(there)
        assert all(names.find(names.of(one)) == one for one in there)


async def test_names_are_kept_and_tried_again_until_they_are(autojump_clock: trio.testing.MockClock) -> None:
    names, kept = NodeNames(), Kept()
    kept.fails = 2
    names.claim("n1", "gpu", "http://1")
    names.claim("n2", "gpu", "http://2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run, kept)
        await kept.stored.wait()
        nursery.cancel_scope.cancel()
    assert list(kept.rows.values()) == [
        NodeName("n1", "gpu", "gpu", "http://1"),
        NodeName("n2", "gpu", "gpu-2", "http://2"),
    ]


async def test_a_restart_finds_every_name_where_it_was(tmp_path: Path) -> None:
    rows = [
        NodeName("n2", "gpu", "gpu-2", "http://2"),
        NodeName("n1", "gpu", "gpu", "http://1", left=True),
    ]
    async with open_ledger(tmp_path / "db") as ledger:
        await ledger.store_node_names([*rows, NodeName("n3", "x", "x", "http://3")], [])
        await ledger.store_node_names([], ["n3"])
    async with open_ledger(tmp_path / "db") as ledger:
        assert await ledger.node_names() == rows
        names = NodeNames(await ledger.node_names())
    assert [names.of("n1"), names.of("n2"), names.find("gpu"), names.find("gpu-2")] == [
        *("gpu", "gpu-2"),
        *(None, "n2"),
    ]
    names.claim("n2", "gpu", "http://2")
    assert names.of("n2") == "gpu-2"


@pytest.mark.parametrize("text", ["gpu-3", "a", "node_1.example.org", "7", "a" * 63])
def test_what_may_be_a_name(text: str) -> None:
    assert is_node_name(text)


@pytest.mark.parametrize(
    "text", ["", "-a", "a b", "http://a:1", "a/b", "ü", "a" * 64, "0" * 32, None, 7, "a\n"]
)
def test_what_may_not(text: object) -> None:
    assert not is_node_name(text)
