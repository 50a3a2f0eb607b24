"""Server-sent events, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.errors import BadAnswer
from orchestrator.client.sse_parser import Message, Parser

STREAM = (
    "\ufeff: a comment\nretry: 1500\n\nid: 7\nevent: job\ndata: {\ndata:  1}\n\n"
    "data: grüße\r\nid: 8\r\n\r\nid: 9\n\nunknown: x\ndata\n\ndata: cut off"
).encode()
MESSAGES = [Message("7", "job", "{\n 1}"), Message("8", "message", "grüße"), Message("9", "message", "")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    parser = Parser()
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[begin:end] for begin, end in pairwise(places)]
    assert [message for piece in pieces for message in parser.feed(piece)] == MESSAGES
    assert parser.retry == 1.5


def test_the_place_of_the_stream_is_told_without_an_event_and_only_once_its_line_is_over() -> None:
    parser = Parser()
    assert list(parser.feed(b"id: 4\n\nid: 5\ndata: x\n")) == []
    assert parser.last_id == "4"
    assert list(parser.feed(b"\n")) == [Message("5", "message", "x")]
    assert parser.last_id == "5"


@pytest.mark.parametrize("piece", [b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_an_event_without_an_end_is_refused(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.client.sse_parser.LONGEST", 10_000)
    parser = Parser()
    with pytest.raises(BadAnswer):
        for _ in range(12):
            list(parser.feed(piece))
