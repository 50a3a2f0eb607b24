"""Frames of a WebSocket, held against those that wsproto writes and reads."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong
from wsproto.utilities import RemoteProtocolError

from actors.wire.link.frames import BINARY, CLOSE, PING, PONG, FrameBuffer, NoWebSocket, encode

MOST = 70_000
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536, MOST]))
KINDS = {CloseConnection: CLOSE, Ping: PING, Pong: PONG}


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """In pieces as a socket may give them."""
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    return [data[begin:end] for begin, end in zip([0, *at], [*at, len(data)], strict=True)]


def read(buffer: FrameBuffer, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    found = []
    for piece in pieces:
        buffer.feed(piece)
        while (one := buffer.next()) is not None:
            found.append(one)
    return found


@given(st.lists(SIZES, max_size=4), st.booleans(), st.randoms(use_true_random=False))
def test_each_reads_what_the_other_writes(sizes: list[int], asked: bool, rng: random.Random) -> None:
    messages = [rng.randbytes(size) for size in sizes]
    far, back = Connection(ConnectionType.SERVER if asked else ConnectionType.CLIENT), b""
    for message in messages:
        if message and rng.random() < 0.5:
            half = rng.randrange(len(message))
            back += far.send(BytesMessage(message[:half], message_finished=False))
            back += far.send(Ping(b"between"))
            back += far.send(BytesMessage(message[half:]))
        else:
            back += far.send(BytesMessage(message))
        far.receive_data(encode(BINARY, message, masked=asked))
    back += far.send(CloseConnection(1000, "enough"))
    found = read(FrameBuffer(masked=not asked, most=MOST), cut(back, rng))
    assert [payload for code, payload in found if code == BINARY] == messages
    assert found[-1] == (CLOSE, b"\x03\xe8enough")
    assert {payload for code, payload in found if code == PING} <= {b"between"}
    assert whole(list(far.events())) == messages


def whole(events: list[Event]) -> list[bytes]:
    messages, begun = [], b""
    for event in events:
        assert isinstance(event, BytesMessage)
        begun += event.data
        if event.message_finished:
            messages.append(begun)
            begun = b""
    return messages


@given(st.binary(max_size=40), st.booleans(), st.randoms(use_true_random=False))
def test_it_refuses_whatever_wsproto_refuses(data: bytes, asked: bool, rng: random.Random) -> None:
    """But for texts, which a link has not, for a close, whose code it does not look at, and for a length that
    might be written in less bytes."""
    buffer = FrameBuffer(masked=not asked, most=MOST)
    near, refused = Connection(ConnectionType.CLIENT if asked else ConnectionType.SERVER), ""
    near.receive_data(data)
    theirs: list[Event] = []
    try:
        theirs.extend(near.events())
    except RemoteProtocolError as error:
        refused = str(error)
    try:
        found = read(buffer, cut(data, rng))
    except NoWebSocket:
        return
    if any(code == CLOSE for code, _ in found) or "minimal" in refused or "smallest" in refused:
        return
    assert not refused
    words = [(KINDS[type(event)], event.payload) for event in theirs if isinstance(event, Ping | Pong)]
    assert [one for one in found if one[0] != BINARY] == [(code, bytes(payload)) for code, payload in words]


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x01a",  # a text
        b"\xc2\x01a",  # a bit that nobody has agreed on
        b"\x82\x81....a",  # masked
        b"\x80\x01a",  # goes on with nothing
        b"\x02\x01a\x82\x01b",  # begins within another
        b"\x09\x01a",  # a ping in pieces
        b"\x89\x7e\x00\x7e",  # a long ping
        b"\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff",  # too much, known before it comes
        b"\x02\x7e\xff\xff" + bytes(65_535) + b"\x80\x7e\xff\xff" + bytes(65_535),  # too much, in pieces
    ],
)
def test_what_no_link_says_is_refused(data: bytes) -> None:
    with pytest.raises(NoWebSocket):
        read(FrameBuffer(masked=False, most=MOST), [data])
