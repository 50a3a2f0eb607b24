"""Proofs: two ends that have one secret, and whoever has not."""

from __future__ import annotations

import secrets
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.wire.link.proof import (
    PUBLIC,
    SECRET,
    Claim,
    Judge,
    Meeting,
    NotProved,
    Offer,
    Prover,
    join_key,
    mac,
    new_nonce,
)
from actors.wire.link.session import UNPROVED, Hello, Lane, Message, Role, Session
from actors.wire.protocol.attempts import Garbled

MOST = dict.fromkeys(Lane, 1 << 20)
MEETING = Meeting("0" * 32, "1" * 32, new_nonce(), new_nonce(), 7, "boot")
OWN, KEY = secrets.token_bytes(SECRET), secrets.token_bytes(SECRET)

texts = st.text(max_size=20)
meetings = st.builds(Meeting, texts, texts, texts, texts, st.integers(0, 1 << 64), texts)


# ---------------------------------------------------------------------- agreeing


def test_both_halves_make_one_secret_of_one_meeting_and_one_key() -> None:
    ours, theirs = Offer(), Offer()
    secret = ours.agree(theirs.public, MEETING, "key")
    assert len(secret) == SECRET
    assert theirs.agree(ours.public, MEETING, "key") == secret
    others = [
        theirs.agree(ours.public, MEETING, ""),
        theirs.agree(ours.public, replace(MEETING, owner="2" * 32), "key"),
        theirs.agree(ours.public, replace(MEETING, answered=new_nonce()), "key"),
        Offer().agree(ours.public, MEETING, "key"),
    ]
    assert len({secret, *others}) == 5


@pytest.mark.parametrize("half", ["", "0" * PUBLIC, "1".zfill(PUBLIC), "f" * PUBLIC, "x" * PUBLIC, "2"])
def test_what_would_make_the_secret_known_is_no_half(half: str) -> None:
    with pytest.raises(NotProved):
        Offer().agree(half, MEETING, "")


def test_a_token_yields_another_key_for_each_that_joins_by_it() -> None:
    assert join_key("a" * 64, new_nonce()) != join_key("a" * 64, new_nonce())
    assert join_key("a" * 64, "n") != join_key("b" * 64, "n")


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_no_two_lists_of_texts_are_alike_to_an_hmac(one: list[str], other: list[str]) -> None:
    assert (mac(b"k", *one) == mac(b"k", *other)) is (one == other)


# ---------------------------------------------------------------------- proofs


@given(meetings, meetings)
def test_a_proof_is_of_one_meeting_one_side_and_one_secret(one: Meeting, other: Meeting) -> None:
    assert (one.proof(OWN, Role.NODE) == other.proof(OWN, Role.NODE)) is (one == other)
    assert one.proof(OWN, Role.NODE) != one.proof(OWN, Role.ORCHESTRATOR)
    assert one.proof(OWN, Role.NODE) != one.proof(KEY, Role.NODE)
    assert one.session_key(OWN).hex() != one.proof(OWN, Role.NODE)


def hello(role: str, **more: Any) -> Hello:
    name = MEETING.owner if role == Role.ORCHESTRATOR else MEETING.node_id
    boot = "" if role == Role.ORCHESTRATOR else MEETING.boot
    return Hello(role, name, boot=boot, nonce=new_nonce(), **more)


def met() -> tuple[Session, Session]:
    """An orchestrator and a node that have said who they are."""
    ours = Session(hello(Role.ORCHESTRATOR, number=7), MOST)
    theirs = Session(hello(Role.NODE), MOST)
    for source, target in ((ours, theirs), (theirs, ours)):
        carry(source, target)
    return ours, theirs


def carry(source: Session, target: Session) -> list[Message]:
    heard = []
    while (frame := source.take()) is not None:
        if (message := target.receive(frame)) is not None:
            heard.append(message)
    return heard


def proved() -> tuple[Session, Session]:
    ours, theirs = met()
    for one in (ours, theirs):
        one.expect(OWN)
        one.prove(OWN)
    assert [message.kind for message in carry(ours, theirs) + carry(theirs, ours)] == ["proof"] * 2
    return ours, theirs


def test_two_that_have_one_secret_hear_each_other() -> None:
    ours, theirs = proved()
    assert ours.admitted and theirs.admitted and ours.meeting() == theirs.meeting()
    theirs.tell(Message("picture"), Lane.ORDERS)
    assert [message.kind for message in carry(theirs, ours)] == ["picture"]


@given(
    st.text(max_size=10).filter(lambda kind: kind not in {"offer", "proof", "closed"}) | st.just("hello"),
    st.sampled_from(Lane),
    st.booleans(),
)
def test_nothing_else_is_heard_before_a_proof(kind: str, lane: Lane, asks: bool) -> None:
    ours, theirs = met()
    if asks:
        theirs.ask(Message(kind), lane, lambda: None)
    else:
        theirs.tell(Message(kind), lane)
    with pytest.raises(Garbled):
        carry(theirs, ours)
    assert not ours.admitted


def test_neither_a_question_nor_much_is_heard_before_a_proof() -> None:
    ours, theirs = met()
    theirs.ask(Message("offer"), Lane.URGENT, lambda: None)
    with pytest.raises(Garbled):
        carry(theirs, ours)
    ours, theirs = met()
    theirs.tell(Message("closed", {"why": "x" * UNPROVED}), Lane.URGENT)
    with pytest.raises(Garbled):
        carry(theirs, ours)


def test_who_has_another_secret_or_none_is_not_heard() -> None:
    ours, theirs = met()
    ours.expect(OWN)
    theirs.prove(KEY)
    with pytest.raises(NotProved):
        carry(theirs, ours)
    assert not ours.admitted
    ours, theirs = met()
    theirs.prove(OWN)  # nobody expects it
    with pytest.raises(NotProved):
        carry(theirs, ours)


def test_a_proof_of_another_link_and_our_own_prove_nothing() -> None:
    before, _ = met()
    before.prove(OWN)
    (replayed,) = iter(before.take, None)
    _, node = met()
    node.expect(OWN)
    with pytest.raises(NotProved):
        node.receive(replayed)
    _, theirs = met()
    theirs.expect(OWN)
    theirs.prove(OWN)
    (mirrored,) = iter(theirs.take, None)
    with pytest.raises(NotProved):
        theirs.receive(mirrored)


def test_what_is_proved_is_proved_once() -> None:
    ours, theirs = proved()
    theirs.prove(OWN)
    with pytest.raises(NotProved):
        carry(theirs, ours)


def test_each_field_of_a_meeting_is_of_one_of_both_hellos() -> None:
    ours, theirs = met()
    told = {one.name for one in fields(Meeting)}
    assert told == {"owner", "node_id", "asked", "answered", "number", "boot"}
    assert ours.meeting() == replace(MEETING, asked=ours.meeting().asked, answered=theirs.meeting().answered)


# ---------------------------------------------------------------------- requests beside a link


def pair() -> tuple[Prover, Judge]:
    return Prover("o" * 32, 7, KEY), Judge(7, KEY)


@settings(max_examples=60)
@given(st.permutations(range(40)), st.lists(st.integers(0, 39)))
def test_a_request_counts_once_in_whatever_order_they_come(order: list[int], again: list[int]) -> None:
    prover, judge = pair()
    claims = [Claim.parse(prover.header("GET", "/v1/info")) for _ in range(40)]
    for at in order:
        judge.judge(claims[at], "GET", "/v1/info")
    for at in again:
        with pytest.raises(NotProved):
            judge.judge(claims[at], "GET", "/v1/info")


def test_one_that_is_far_too_late_does_not_count() -> None:
    prover, judge = pair()
    first = Claim.parse(prover.header("GET", "/"))
    for _ in range(5000):
        last = Claim.parse(prover.header("GET", "/"))
    judge.judge(last, "GET", "/")
    with pytest.raises(NotProved):
        judge.judge(first, "GET", "/")


@pytest.mark.parametrize(
    "asked",
    [("POST", "/v1/a", "q=1"), ("GET", "/v1/b", "q=1"), ("GET", "/v1/a", "q=2"), ("GET", "/v1/aq=1", "")],
)
def test_a_request_is_proved_as_it_is(asked: tuple[str, str, str]) -> None:
    prover, judge = pair()
    claim = Claim.parse(prover.header("GET", "/v1/a", "q=1"))
    with pytest.raises(NotProved):
        judge.judge(claim, *asked)
    with pytest.raises(NotProved):
        Judge(8, KEY).judge(claim, "GET", "/v1/a", "q=1")
    with pytest.raises(NotProved):
        Judge(7, OWN).judge(claim, "GET", "/v1/a", "q=1")
    judge.judge(claim, "GET", "/v1/a", "q=1")  # what was wrong has used nothing up


@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["o", "7", "1", "-1", "²", "9" * 30, ""])).map(":".join)
)
def test_what_is_no_claim_is_refused(text: str) -> None:
    try:
        claim = Claim.parse(text)
    except NotProved:
        return
    with pytest.raises(NotProved):
        pair()[1].judge(claim, "GET", "/")


def test_a_path_may_be_written_otherwise_on_the_way() -> None:
    prover, judge = pair()
    claim = Claim.parse(prover.header("GET", "/v1/attempts/k/files/a%20b%C3%A9"))
    judge.judge(claim, "GET", "/v1/attempts/k/files/a b%c3%a9")
