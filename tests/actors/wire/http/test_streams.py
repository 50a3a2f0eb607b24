"""Frames and event lines: both are cut into chunks by the network as it likes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.wire.errors import BadRequest, CutOff, TooLarge
from actors.wire.pieces import Pieces
from actors.wire.protocol import frames, ndjson


def cut(data: bytes, size: int) -> Pieces:
    return Pieces(data[at : at + size] for at in range(0, len(data), size))


_ATTEMPT = [
    (frames.END, b'{"key": "k"}'),
    (frames.STDOUT, b"\r\n\0\xff"),
    (frames.STDERR, b""),
    (frames.ZIP, b"PK" * 500),
    (frames.FINISH, b"{}"),
]


async def read_frames(body: Pieces) -> list[tuple[bytes, bytes]]:
    """Those of one kind that follow each other as one: how these are cut means nothing."""
    found: list[tuple[bytes, bytes]] = []
    async for kind, data in frames.FrameReader(body):
        if found and kind == found[-1][0] and kind in (frames.ZIP, frames.STDOUT, frames.STDERR):
            found[-1] = (kind, found[-1][1] + data)
        else:
            found.append((kind, data))
    return found


@given(st.integers(min_value=1, max_value=1200))
async def test_frames_come_through_however_they_are_cut(size: int) -> None:
    sent = [*_ATTEMPT, (frames.ERROR, b'{"key": "l", "error": "gone"}'), *_ATTEMPT]
    body = b"".join(frames.encode(kind, data) for kind, data in sent)
    assert await read_frames(cut(body, size)) == sent
    assert await read_frames(Pieces([])) == []


async def test_what_comes_of_a_zip_is_handed_on_as_it_comes() -> None:
    piece = bytes(1000)
    head = frames.encode(frames.ZIP, bytes(4000))[: frames.HEAD]
    reader = frames.FrameReader(Pieces([head, piece, piece, piece + b"." * 500, b"." * 500 + b"F"]))
    parts = [await anext(reader) for _ in range(4)]
    assert [kind for kind, _ in parts] == [frames.ZIP] * 4
    assert parts[0][1] is parts[1][1] is piece
    assert [len(data) for _, data in parts] == [1000, 1000, 1500, 500]
    with pytest.raises(CutOff):
        await anext(reader)


async def test_a_stream_that_ends_before_the_finish_of_an_attempt_was_cut_off() -> None:
    body = b"".join(frames.encode(kind, data) for kind, data in _ATTEMPT)
    for end in range(1, len(body)):
        with pytest.raises(CutOff):
            await read_frames(Pieces([body[:end]]))


async def test_a_frame_is_a_byte_of_type_four_of_length_and_the_data() -> None:
    assert frames.encode(frames.ZIP, b"abc") == b"Z\0\0\0\x03abc"


@pytest.mark.parametrize(
    "body",
    [
        b"?\0\0\0\0",
        b"Z\0\x10\0\x01",
        b"O\xff\xff\xff\xff",
        b"E\x04\0\0\x01",
        b"HTTP/1.1 200 OK",
        b"F\0\x10\0\x01",
    ],
)
async def test_an_unknown_type_or_an_excessive_length_is_refused_before_it_is_read(body: bytes) -> None:
    with pytest.raises(BadRequest):
        await read_frames(Pieces([body]))


async def test_the_largest_frames_are_taken_and_larger_ones_are_not_written() -> None:
    record = bytes(2 << 20)
    sent = [(frames.END, record), (frames.ZIP, bytes(frames.MAX_FRAME)), (frames.FINISH, b"")]
    assert await read_frames(cut(b"".join(frames.encode(*frame) for frame in sent), 65536)) == sent
    for kind, size in ((frames.ZIP, frames.MAX_FRAME), (frames.END, frames.MAX_END), (b"?", -1)):
        with pytest.raises(ValueError, match="frame"):
            frames.encode(kind, bytes(size + 1))


async def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    frame = frames.encode(frames.ZIP, bytes(256 << 10))

    def source() -> Iterable[bytes]:
        for _ in range(100):
            yield frame
        yield frames.encode(frames.FINISH, b"{}")

    count = 0
    tracemalloc.start()
    try:
        async for _ in frames.FrameReader(Pieces(source())):
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 101
    assert peak < 3 << 20


async def read_lines(body: Pieces, limit: int = ndjson.MAX_LINE) -> list[dict[str, object]]:
    return [event async for event in ndjson.LineReader(body, limit)]


_EVENTS = st.lists(
    st.dictionaries(
        st.text(),
        st.text() | st.integers() | st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    )
)


@settings(max_examples=40)
@given(_EVENTS, st.integers(min_value=1, max_value=100))
async def test_events_come_through_however_they_are_cut(events: list[dict[str, object]], size: int) -> None:
    body = b"".join(ndjson.encode(event) for event in events)
    assert body.count(b"\n") == len(events)
    assert await read_lines(cut(body, size)) == events
    assert [event async for event in ndjson.LineReader(Pieces([body]))] == events


async def test_empty_lines_are_skipped_and_carriage_returns_do_no_harm() -> None:
    assert await read_lines(Pieces([b'\n\r\n{"a":1}\r\n', b"\n"])) == [{"a": 1}]


@pytest.mark.parametrize("body", [b'{"a":1}', b'{"a":1}\n{"b"', b'{"a":1}\n{"b":2}'])
async def test_a_stream_that_ends_within_a_line_was_cut_off(body: bytes) -> None:
    with pytest.raises(CutOff):
        await read_lines(Pieces([body]))


@pytest.mark.parametrize("line", [b"[1]", b"nonsense", b"1", b"\xff", b"[" * 100_000, b"9" * 5000])
async def test_a_line_that_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        await read_lines(Pieces([line + b"\n"]))


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_that_is_too_long_is_refused(end: bytes) -> None:
    line = json.dumps({"a": "x" * 91}).encode()
    assert len(line) == 100
    assert await read_lines(Pieces([line + b"\n"]), limit=100) == [{"a": "x" * 91}]
    with pytest.raises(TooLarge):
        await read_lines(cut(line + end + b"x" * 10, 7), limit=99)


async def test_a_picture_of_megabytes_is_read_in_linear_time() -> None:
    event = {"payloads": ["x" * 30] * 100_000}
    assert await read_lines(cut(ndjson.encode(event), 1000)) == [event]


def test_what_json_does_not_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        ndjson.encode({"load": float("nan")})
