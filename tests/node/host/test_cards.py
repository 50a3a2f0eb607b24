"""One card for one job, with files that are made up: no test has a GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from support.processes.nodes_in_process import KEY, OTHER, SCRIPT, node_in_process

from node import server
from node.confinement.grants import Grants
from node.host.cards import Cards

FOR_ALL = ("nvidiactl", "nvidia-uvm", "nvidia-caps")


def make_machine(root: Path, cards: int) -> Path:
    (root / "dev").mkdir(parents=True)
    for name in (*FOR_ALL, "null", "nvidia-fs0", "nvidiaX"):
        (root / "dev" / name).touch()
    for number in range(cards):
        (root / "dev" / f"nvidia{number}").touch()
        about = root / "proc" / "driver" / "nvidia" / "gpus" / f"0000:0{9 - number}:00.0"
        about.mkdir(parents=True)
        (about / "information").write_text(
            f"Model: \t\t A100\nGPU UUID: \t GPU-{number}-of-it\nDevice Minor: \t {number}\n"
        )
    return root


def make_cards(tmp_path: Path, there: set[str], cards: int = 2) -> Cards:
    root = tmp_path / "root"
    if not root.exists():
        make_machine(root, cards)
    found = Cards(tmp_path / "cards", there.__contains__, root)
    found.load()
    return found


def test_each_job_has_a_card_of_its_own_until_it_ends(tmp_path: Path) -> None:
    cards = make_cards(tmp_path, set())
    assert cards.claim("a") and cards.claim("a") and cards.claim("b") and not cards.claim("c")
    dev = tmp_path / "root" / "dev"
    given = [cards.given(key) for key in ("a", "b")]
    assert [card and card.devices[0] for card in given] == [dev / "nvidia0", dev / "nvidia1"]
    assert [card and card.devices[1:] for card in given] == [tuple(dev / name for name in FOR_ALL)] * 2
    assert [card and card.environment["CUDA_VISIBLE_DEVICES"] for card in given] == [
        "GPU-0-of-it",
        "GPU-1-of-it",
    ]
    assert cards.given("c") is None and not cards.holds("c")
    cards.keep("a")
    cards.give_back("a")
    cards.give_back("never had one")
    assert cards.claim("c") and cards.given("c") == given[0]
    assert list((tmp_path / "cards").iterdir()) == []


def test_what_a_payload_has_outlives_the_node_and_no_longer_than_the_payload(tmp_path: Path) -> None:
    there = {"a", "b"}
    before = make_cards(tmp_path, there)
    for key in ("a", "b"):
        before.claim(key)
        before.keep(key)
    there.remove("b")
    after = make_cards(tmp_path, there)
    assert after.given("a") == before.given("a") and not after.holds("b")
    assert after.claim("c") and not after.claim("d")
    after.keep("c")
    after.give_back("a")
    assert make_cards(tmp_path, {"c"}).given("c") == before.given("b")


def test_a_machine_without_cards_lets_nobody_wait(tmp_path: Path) -> None:
    cards = make_cards(tmp_path, set(), cards=0)
    assert cards.claim("a") and not cards.holds("a")
    cards.keep("a")
    assert not (tmp_path / "cards").exists()


def test_a_card_without_a_known_name_goes_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "root" / "dev").mkdir(parents=True)
    (tmp_path / "root" / "dev" / "nvidia3").touch()
    cards = make_cards(tmp_path, set())
    cards.claim("a")
    card = cards.given("a")
    assert card is not None
    assert card.environment == {"CUDA_VISIBLE_DEVICES": "3", "NVIDIA_VISIBLE_DEVICES": "3"}


async def test_a_job_waits_on_the_node_until_a_card_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_machine(tmp_path / "root", 1)
    monkeypatch.setattr(server, "Cards", partial(Cards, root=root))
    services = {"haddock": Grants(devices=("nvidia",))}
    async with node_in_process(tmp_path / "data", services=services) as node:
        run = await node.started()
        assert run.spec.devices[0] == root / "dev" / "nvidia0"
        assert run.spec.environment["CUDA_VISIBLE_DEVICES"] == "GPU-0-of-it"
        assert root / "proc" / "driver" / "nvidia" in run.spec.grants.read
        await node.submit({OTHER: dict(SCRIPT)})
        assert OTHER not in node.executor.runs
        run.finish()
        await node.until(KEY, "Completed")
        other = await node.executor.run_of(OTHER)
        assert other.spec.devices == run.spec.devices
        other.finish()
        await node.until(OTHER, "Completed")


async def test_a_job_that_needs_a_card_where_there_is_none_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "Cards", partial(Cards, root=make_machine(tmp_path / "root", 0)))
    async with node_in_process(tmp_path / "data", grants=Grants(devices=("nvidia",))) as node:
        await node.submit({KEY: dict(SCRIPT)})
        view = await node.until(KEY, "Failed")
    assert view["end"]["message"] == (
        "could not be started: this machine has no card of NVIDIA (/dev/nvidia0 and on)"
    )
    assert (view["lost"], view["end"]["failure"]) == (True, "node"), "another one may have some"
