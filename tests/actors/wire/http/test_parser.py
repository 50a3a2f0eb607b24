"""What goes past h11's buffer is what h11 would have said, wherever it is cut."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.wire.http.parser import BODY_PIECE, LARGE, Parser

HEAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def in_chunks(pieces: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def ask() -> Parser:
    """A client's, which has asked and is to be answered."""
    parser = Parser(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    return parser


def say(parser: h11.Connection, pieces: Iterable[bytes]) -> list[object]:
    """What a server hears of two requests, which it answers as soon as each is here."""
    said: list[object] = []
    body = b""
    for piece in pieces:
        parser.receive_data(piece)
        while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Data):
                body += event.data
                continue
            said.append((type(event), body))
            if isinstance(event, h11.EndOfMessage):
                body = b""
                parser.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                parser.send(h11.EndOfMessage())
                parser.start_next_cycle()
    return [*said, body, parser.their_state, bytes(parser.trailing_data[0])]


@st.composite
def cut_requests(draw: st.DrawFn) -> list[bytes]:
    sizes = st.integers(0, 60) | st.integers(0, 4 * LARGE)
    bodies = [bytes([65 + n]) * draw(sizes) for n in range(2)]
    whole = HEAD % len(bodies[0]) + bodies[0]
    if draw(st.booleans()):
        whole += HEAD % len(bodies[1]) + bodies[1]
    else:
        whole += CHUNKED + in_chunks([*draw(st.lists(sizes.map(bytes), max_size=3)), bodies[1]])
    whole = whole[: draw(st.integers(1, len(whole)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [piece for piece in pieces if piece]


@given(pieces=cut_requests())
def test_it_says_what_h11_says(pieces: list[bytes]) -> None:
    assert say(Parser(h11.SERVER), pieces) == say(h11.Connection(h11.SERVER), pieces)


def test_a_piece_within_the_body_is_handed_on_as_it_is() -> None:
    parser, piece = Parser(h11.SERVER), b"x" * LARGE
    parser.receive_data(HEAD % (2 * LARGE))
    assert isinstance(parser.next_event(), h11.Request)
    parser.receive_data(piece)
    event = parser.next_event()
    assert isinstance(event, h11.Data) and event.data is piece


@given(
    sizes=st.lists(st.integers(1, 60) | st.integers(1, 2 * BODY_PIECE), max_size=3),
    most=st.integers(LARGE // 2, BODY_PIECE + 1),
)
@settings(max_examples=50)
def test_an_answer_that_is_read_as_wanted_is_what_was_sent(sizes: list[int], most: int) -> None:
    """Whatever the network brings of it at a time."""
    pieces = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    sent = ANSWER + in_chunks(pieces)
    parser, at, came = ask(), 0, bytearray()
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            wanted = parser.wanted
            assert 0 < wanted <= BODY_PIECE
            piece = sent[at : at + min(wanted, most)]
            at += len(piece)
            parser.receive_data(piece)
        elif isinstance(event, h11.Data):
            came += event.data
    assert (at, bytes(came)) == (len(sent), b"".join(pieces))


def test_of_a_large_chunk_all_but_its_ends_is_handed_on_as_it_is() -> None:
    parser, size = ask(), 3 * BODY_PIECE
    parser.receive_data(ANSWER + b"%x\r\n" % size + b".")
    assert isinstance(parser.next_event(), h11.Response)
    parser.next_event()
    assert parser.next_event() is h11.NEED_DATA
    given, left = 0, size - 1
    while left > 1:
        piece = bytes(parser.wanted)
        parser.receive_data(piece)
        event = parser.next_event()
        assert isinstance(event, h11.Data) and event.data is piece
        left -= len(piece)
        given += 1
    assert (given, left) == (3, 1)
    parser.receive_data(b".\r\n0\r\n\r\n")
    assert isinstance(parser.next_event(), h11.Data)
    assert isinstance(parser.next_event(), h11.EndOfMessage)


@pytest.mark.parametrize("came", [0, 5, LARGE])
def test_a_body_that_ends_early_is_no_body(came: int) -> None:
    parser = Parser(h11.SERVER)
    parser.receive_data(HEAD % (2 * LARGE))
    parser.next_event()
    if came:
        parser.receive_data(b"x" * came)
        parser.next_event()
    parser.receive_data(b"")
    with pytest.raises(h11.RemoteProtocolError, match=f"received {came} bytes, expected {2 * LARGE}"):
        parser.next_event()
