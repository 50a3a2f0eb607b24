"""What goes past h11's buffer is what h11 would have said, wherever it is cut."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.wire.http.backpressure import LARGE
from actors.wire.http.protocol import Parser

HEAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


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
        whole += CHUNKED + b"%x\r\n" % len(bodies[1] or b".") + (bodies[1] or b".") + b"\r\n0\r\n\r\n"
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
