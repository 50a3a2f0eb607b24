"""What is said over a link, as two ends that are joined by nothing but the frames they give each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.wire.link.session import (
    MAX_FRAME,
    OPEN,
    Fence,
    Hello,
    Lane,
    Message,
    Question,
    Role,
    Session,
    decode,
)
from actors.wire.protocol.attempts import Garbled

MOST = dict.fromkeys(Lane, 1 << 20)
ORCHESTRATOR = Hello(Role.ORCHESTRATOR, "0" * 32, number=1)
NODE = Hello(Role.NODE, "1" * 32, boot="b", incarnation="i")


def pair() -> tuple[Session, Session]:
    return Session(ORCHESTRATOR, MOST), Session(NODE, MOST)


def met() -> tuple[Session, Session]:
    """Two ends that know each other."""
    ours, theirs = pair()
    carry(ours, theirs)
    carry(theirs, ours)
    return ours, theirs


def carry(source: Session, target: Session, frames: int = 1 << 20) -> list[Message]:
    """So many frames at most."""
    heard = []
    while frames and (frame := source.take()) is not None:
        frames -= 1
        if (message := target.receive(frame)) is not None:
            heard.append(message)
    return heard


messages = st.builds(
    Message,
    st.sampled_from(["submit", "payloads", "ended"]),
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.text(max_size=5), max_size=2),
    st.binary(max_size=40) | st.integers(1, 300_000).map(bytes),
)


def test_each_side_says_who_it_is_before_anything_else() -> None:
    ours, theirs = pair()
    (hello,) = carry(ours, theirs)
    assert (hello.kind, theirs.peer) == ("hello", ORCHESTRATOR)
    carry(theirs, ours)
    assert ours.peer == NODE


def test_nothing_counts_before_the_hello_and_there_is_only_one() -> None:
    stranger = Session(NODE, MOST)
    stranger.take()  # its hello is lost
    stranger.tell(Message("payloads"), Lane.ORDERS)
    ours = Session(ORCHESTRATOR, MOST)
    with pytest.raises(Garbled):
        carry(stranger, ours)
    ours, theirs = met()
    theirs.tell(Message("hello", NODE.to_json()), Lane.URGENT)
    with pytest.raises(Garbled):
        carry(theirs, ours)


@pytest.mark.parametrize(
    "hello",
    [replace(NODE, version=0), replace(NODE, version=9, oldest=9), replace(NODE, role=Role.ORCHESTRATOR)],
)
def test_whoever_speaks_no_version_of_ours_or_is_not_the_other_side_is_not_met(hello: Hello) -> None:
    with pytest.raises(Garbled):
        carry(Session(hello, MOST), Session(ORCHESTRATOR, MOST))


def test_a_newer_one_that_still_speaks_ours_is_met() -> None:
    ours = Session(ORCHESTRATOR, MOST)
    carry(Session(replace(NODE, version=2, oldest=1), MOST), ours)
    assert ours.peer is not None and ours.peer.version == 2


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(Lane), messages), max_size=12))
def test_what_is_said_arrives_whole_once_and_in_the_order_of_its_lane(
    said: list[tuple[Lane, Message]],
) -> None:
    ours, theirs = met()
    for number, (lane, message) in enumerate(said):
        ours.tell(replace(message, body={**message.body, "n": number, "lane": lane}), lane)
    heard = carry(ours, theirs)
    for lane in Lane:
        numbers = [message.body["n"] for message in heard if message.body["lane"] == lane]
        assert numbers == [number for number, (one, _) in enumerate(said) if one is lane]
    assert {message.body["n"]: message.blob for message in heard} == {
        number: message.blob for number, (_, message) in enumerate(said)
    }


@settings(max_examples=60)
@given(st.integers(0, 8), st.lists(messages, min_size=1, max_size=3))
def test_what_is_urgent_goes_out_next_and_orders_wait_for_one_frame_of_results(
    begun: int, results: list[Message]
) -> None:
    ours, theirs = met()
    for result in results:
        ours.tell(result, Lane.RESULTS)
    carry(ours, theirs, begun)
    ours.tell(Message("cancel"), Lane.URGENT)
    ours.tell(Message("lookup"), Lane.ORDERS)
    assert [message.kind for message in carry(ours, theirs, 1)] == ["cancel"]
    assert "lookup" in [message.kind for message in carry(ours, theirs, 2)]


@dataclass
class Asked:
    lane: Lane
    message: Message
    question: Question
    told: list[str] = field(default_factory=list)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(Lane), messages), min_size=1, max_size=8),
    st.integers(0, 30),
    st.integers(0, 8),
)
def test_where_a_link_breaks_a_question_is_answered_in_doubt_or_has_left_no_trace(
    questions: list[tuple[Lane, Message]], there: int, back: int
) -> None:
    ours, theirs = met()
    asked = []
    for number, (lane, message) in enumerate(questions):
        over: list[str] = []
        numbered = replace(message, body={"n": number})
        asked.append(Asked(lane, numbered, ours.ask(numbered, lane, lambda o=over: o.append("over")), over))
    seen = set()
    while there and (frame := ours.take()) is not None:
        there -= 1
        if (message := theirs.receive(frame)) is not None:
            seen.add(message.body["n"])
            theirs.tell(Message(message.kind, message.body, answers=message.asks), Lane.ORDERS)
    carry(theirs, ours, back)
    ours.close()
    for number, one in enumerate(asked):
        assert one.told == ["over"]
        if one.question.answer is not None:
            assert one.question.answer.body == {"n": number} and number in seen
        elif not one.question.sent:
            assert number not in seen
    assert ours.take() is None


def test_a_question_of_a_link_that_has_ended_is_over_at_once_and_was_not_sent() -> None:
    ours, _ = met()
    ours.close()
    over: list[str] = []
    question = ours.ask(Message("submit"), Lane.ORDERS, lambda: over.append("over"))
    assert over == ["over"] and not question.sent and question.answer is None
    assert ours.take() is None


def test_a_question_that_was_not_sent_can_be_withdrawn_and_one_that_was_goes_on() -> None:
    ours, theirs = met()
    unsent = ours.ask(Message("submit"), Lane.ORDERS, lambda: None)
    ours.withdraw(unsent)
    begun = ours.ask(Message("lookup", blob=bytes(3 * MAX_FRAME)), Lane.ORDERS, lambda: None)
    carry(ours, theirs, 1)
    ours.withdraw(begun)
    assert (unsent.sent, begun.sent) == (False, True)
    assert [message.kind for message in carry(ours, theirs)] == ["lookup"]


def test_a_late_answer_is_passed_over() -> None:
    ours, theirs = met()
    question = ours.ask(Message("lookup"), Lane.ORDERS, lambda: None)
    (asked,) = carry(ours, theirs)
    ours.withdraw(question)
    theirs.tell(Message("lookup", answers=asked.asks), Lane.ORDERS)
    assert carry(theirs, ours) == []
    assert question.answer is None


def test_what_is_taken_in_is_bounded() -> None:
    ours, theirs = met()
    ours.tell(Message("ended", blob=bytes(MOST[Lane.RESULTS])), Lane.RESULTS)
    with pytest.raises(Garbled):
        carry(ours, theirs)
    ours, theirs = met()
    for _ in range(OPEN + 1):
        ours.ask(Message("lookup"), Lane.ORDERS, lambda: None)
    with pytest.raises(Garbled):
        carry(ours, theirs)
    _, theirs = met()
    with pytest.raises(Garbled):
        theirs.receive(bytes(MAX_FRAME + 1))


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_comes_is_taken_in_or_refused_as_garbled(frames: list[bytes]) -> None:
    _, theirs = met()
    with suppress(Garbled):
        for frame in frames:
            theirs.receive(frame)


@given(st.binary(max_size=60))
def test_whatever_is_decoded_is_a_message_or_garbled(data: bytes) -> None:
    with suppress(Garbled):
        assert isinstance(decode(data), Message)


@given(messages)
def test_a_message_is_decoded_as_it_was(message: Message) -> None:
    assert decode(message.encode()) == message


def test_the_link_with_the_highest_number_holds() -> None:
    fence, first, second = Fence(), object(), object()
    assert (fence.newest("o"), fence.enter("o", 5, first)) == (0, None)
    assert (fence.newest("o"), fence.enter("o", 6, second)) == (5, first)
    fence.leave("o", first)  # late, and of no consequence
    assert fence.newest("o") == 6
    assert fence.newest("another") == 0
    fence.leave("o", second)
    assert fence.newest("o") == 0
