"""Whom a node lets in: by what it keeps, by its token, by addresses."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from actors.wire.http.app import Refusal
from actors.wire.link.proof import PROOF_HEADER, Judge, Prover, new_nonce
from actors.wire.link.session import Hello, Role
from node.access.door import Admit, Agree, Door, Prove, Refuse
from node.access.kept_secrets import KeptSecrets
from node.access.servers import Servers

A, B, NODE = "a" * 32, "b" * 32, "1" * 32
SECRET = bytes(range(32))


def hello(name: str = A, *, knows: bool = False, nonce: str | None = None) -> Hello:
    offer = "" if knows else "2".zfill(512)
    return Hello(
        Role.ORCHESTRATOR, name, number=1, nonce=new_nonce() if nonce is None else nonce, offer=offer
    )


def door(tmp_path: Path, token: str | None = None) -> Door:
    return Door(NODE, KeptSecrets(tmp_path), token, new_nonce())


def why(step: Any) -> str:
    assert isinstance(step, Refuse), step
    return step.code


def test_one_that_has_met_nobody_agrees_with_the_first_and_takes_who_knows_no_proofs(tmp_path: Path) -> None:
    open_door = door(tmp_path)
    assert not open_door.closed
    assert isinstance(open_door.meet(hello(nonce="")), Admit)
    assert open_door.meet(hello()) == Agree("")
    assert why(open_door.meet(hello("../../etc"))) == "no_owner"


def test_with_a_secret_it_is_closed_to_all_others(tmp_path: Path) -> None:
    shut = door(tmp_path)
    shut.kept.keep(A, SECRET)
    assert shut.closed
    assert shut.meet(hello(knows=True)) == Prove(SECRET)
    assert why(shut.meet(hello(B))) == "paired"
    assert why(shut.meet(hello(nonce=""))) == "no_proof"
    refused = shut.meet(hello(B, knows=True))
    assert isinstance(refused, Refuse) and f"/v1/nodes/{NODE}/secret" in refused.why
    assert why(shut.may_keep(B)) == "paired"


def test_one_that_is_unconfirmed_may_be_agreed_on_again_by_the_same_alone(tmp_path: Path) -> None:
    shut = door(tmp_path)
    shut.kept.keep(A, SECRET)
    assert shut.meet(hello()) == Agree("")
    assert why(shut.meet(hello(B))) == "paired"
    shut.kept.confirm(A)
    refused = shut.meet(hello())
    assert isinstance(refused, Refuse) and "--pair-anew" in refused.why
    assert shut.meet(hello(knows=True)) == Prove(SECRET)


def test_a_restart_goes_on_with_what_was_kept(tmp_path: Path) -> None:
    door(tmp_path).kept.keep(A, SECRET)
    again = door(tmp_path)
    assert again.meet(hello()) == Agree("")  # it was not confirmed
    again.kept.confirm(A)
    assert why(door(tmp_path).meet(hello())) == "secret_lost_there"
    path = tmp_path / "orchestrators" / A
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    again.kept.forget_all()
    assert not door(tmp_path).closed and not list(path.parent.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"secret": "ab"}', b'{"secret": 7}', b"\xff" * 9000])
def test_a_damaged_file_opens_nothing(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    door(tmp_path).kept.keep(A, SECRET)
    (tmp_path / "orchestrators" / A).write_bytes(content)
    shut = door(tmp_path)
    assert shut.closed and "--pair-anew" in caplog.text
    for met in (hello(), hello(knows=True), hello(B), hello(nonce="")):
        assert isinstance(shut.meet(met), Refuse)


def test_something_else_in_the_place_of_a_file_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "orchestrators" / A).mkdir(parents=True)
    assert door(tmp_path).closed


def test_with_a_token_it_agrees_by_that_alone_also_with_a_second_one(tmp_path: Path) -> None:
    shut = door(tmp_path, "jobo_0123456789abcdef")
    assert shut.closed
    step = shut.meet(hello())
    assert isinstance(step, Agree) and len(step.key) == 64
    assert door(tmp_path, "jobo_0123456789abcdef").meet(hello()) != step  # it says another nonce
    shut.kept.keep(A, SECRET)
    assert isinstance(shut.meet(hello(B)), Agree)


# ---------------------------------------------------------------------- requests


def test_a_request_beside_a_link_is_proved_by_it(tmp_path: Path) -> None:
    shut = door(tmp_path)
    assert shut.admit(None, "GET", "/v1/events", "") is None
    shut.kept.keep(A, SECRET)
    with pytest.raises(Refusal) as refused:
        shut.admit(None, "GET", "/v1/events", "")
    assert (refused.value.status, refused.value.code) == (403, "paired")
    prover = Prover(A, 5, SECRET)
    with pytest.raises(Refusal):
        shut.admit(prover.header("GET", "/v1/events"), "GET", "/v1/events", "")
    shut.stands(A, Judge(5, SECRET))
    claim = prover.header("GET", "/v1/events")
    assert shut.admit(claim, "GET", "/v1/events", "") == A
    for wrong in (claim, claim.replace(A, B), prover.header("POST", "/v1/events"), "x", f"{PROOF_HEADER}"):
        with pytest.raises(Refusal) as refused:
            shut.admit(wrong, "GET", "/v1/events", "")
        assert refused.value.code == "not_proved"
    shut.stands(A, Judge(6, SECRET))
    with pytest.raises(Refusal):
        shut.admit(prover.header("GET", "/v1/events"), "GET", "/v1/events", "")


# ---------------------------------------------------------------------- addresses


async def admitted(servers: Servers, peer: str, *, submits: bool = True, closed: bool = False) -> bool:
    try:
        await servers.admit(peer, submits=submits, closed=closed)
    except Refusal as refusal:
        assert refusal.status == 403 and "SERVERS" in refusal.detail, refusal.detail
        return False
    return True


async def test_the_first_that_submits_is_the_one(tmp_path: Path) -> None:
    servers = Servers(tmp_path, ())
    assert not await admitted(servers, "10.0.0.7", submits=False)
    assert await admitted(servers, "10.0.0.7")
    assert await admitted(servers, "10.0.0.7", submits=False)
    assert await admitted(servers, "::ffff:10.0.0.7")
    assert not await admitted(servers, "10.0.0.8")
    again = Servers(tmp_path, ())
    assert not await admitted(again, "10.0.0.8") and await admitted(again, "10.0.0.7", closed=True)
    assert await again.may_come("10.0.0.7") and not await again.may_come("10.0.0.8")
    again.forget()
    assert await admitted(Servers(tmp_path, ()), "10.0.0.8")


async def test_where_there_is_an_orchestrator_the_first_that_submits_is_nobody(tmp_path: Path) -> None:
    assert not await admitted(Servers(tmp_path, ()), "10.0.0.7", closed=True)


async def test_programs_of_this_machine_are_nobody_unless_they_are_named(tmp_path: Path) -> None:
    for own in ("127.0.0.1", "127.3.4.5", "::1", "fe80::1", "::ffff:127.0.0.1"):
        assert not await admitted(Servers(tmp_path, ()), own)
    assert not (tmp_path / "server").exists()
    named = Servers(tmp_path, ("127.0.0.1",))
    assert await admitted(named, "127.0.0.1") and not await admitted(named, "127.0.0.2")


async def test_those_that_are_named_are_served_by_address_network_and_name(tmp_path: Path) -> None:
    servers = Servers(
        tmp_path, ("10.0.0.7", "192.168.0.0/16", "fd00::/8", "localhost", "no.such.host.invalid")
    )
    for peer in ("10.0.0.7", "192.168.3.4", "fd00::5", "127.0.0.1"):
        assert await admitted(servers, peer)
        assert await servers.may_come(peer)
    for peer in ("10.0.0.8", "fe80::5", "", "x"):
        assert not await servers.may_come(peer)
    assert not await admitted(servers, "10.0.0.8")


async def test_what_was_kept_and_is_damaged_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "server").write_bytes(b"\xff")
    assert not await admitted(Servers(tmp_path, ()), "10.0.0.7")
