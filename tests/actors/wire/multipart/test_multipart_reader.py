from __future__ import annotations

import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from itertools import pairwise

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from actors.wire.errors import BadRequest, CutOff, TooLarge, WireError
from actors.wire.multipart.reader import WRITE, Part, Sink, TextSink, cut_whole, read_parts
from actors.wire.pieces import Pieces

TYPE = "multipart/form-data; boundary=BbB"


class Kept:
    """A sink that keeps what it got."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = 0

    async def write(self, data: bytes) -> None:
        self.pieces.append(data)

    async def close(self) -> None:
        self.closed += 1


def form(*parts: tuple[str, bytes], end: bytes = b"--BbB--\r\n") -> bytes:
    """Each part is the rest of its Content-Disposition (and further headers), and its bytes."""
    return (
        b"".join(
            b"--BbB\r\nContent-Disposition: form-data; " + rest.encode() + b"\r\n\r\n" + data + b"\r\n"
            for rest, data in parts
        )
        + end
    )


class Chunks:
    """A body as a server hands it over: an iterator that may be left in the middle."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.given = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces:
            self.given += len(piece)
            return piece
        raise StopAsyncIteration


async def read(
    pieces: Iterable[bytes], limit: int | None = None, content_type: str = TYPE
) -> list[tuple[Part, bytes]]:
    got: list[tuple[Part, Kept]] = []

    async def on_part(part: Part) -> Sink:
        sink = Kept()
        got.append((part, sink))
        return sink

    await read_parts(content_type, Chunks(pieces), limit=limit, on_part=on_part)
    assert all(sink.closed == 1 for _, sink in got)
    return [(part, b"".join(sink.pieces)) for part, sink in got]


async def test_files_and_text_fields_are_told_apart_and_bytes_are_kept() -> None:
    body = form(
        (
            'name="file"; filename="run.sh"\r\nContent-Type: Text/X-Shell; charset=utf-8',
            b"#!/bin/bash\r\n\0\xff",
        ),
        ('name="user_id"', b"1"),
        ("name=\"file\"; filename*=UTF-8''%E2%82%AC%20rates.pdb", b"ATOM"),
        ('name="empty"; filename="empty.txt"', b""),
    )
    assert await read([body]) == [
        (Part("file", "run.sh", "text/x-shell"), b"#!/bin/bash\r\n\0\xff"),
        (Part("user_id", None, None), b"1"),
        (Part("file", "€ rates.pdb", None), b"ATOM"),
        (Part("empty", "empty.txt", None), b""),
    ]


_TRICKY = form(
    ('name="file"; filename="a\\b.pdb"', b"\r\n--BbA\r\n--Bb\r\r\n-\r"),
    ('name="file"; filename="x"', b"\r"),
    ('name="file"; filename="y"', b"\r\n"),
    ('name="file"; filename="z"', b""),
    ('name="file"; filename="é€"', b"--BbB--"),
)


@given(st.lists(st.integers(min_value=0, max_value=len(_TRICKY))))
@example(list(range(len(_TRICKY))))
async def test_any_split_of_the_body_gives_the_same_parts(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(_TRICKY)]
    pieces = [_TRICKY[a:b] for a, b in pairwise(edges)]
    assert [data for _, data in await read(pieces)] == [
        b"\r\n--BbA\r\n--Bb\r\r\n-\r",
        b"\r",
        b"\r\n",
        b"",
        b"--BbB--",
    ]


async def test_a_chunk_that_ends_within_the_closing_boundary_adds_no_byte() -> None:
    data = bytes(1000)
    body = form(('name="file"; filename="x"', data))
    for cut in range(len(body) - 20, len(body)):
        assert [got for _, got in await read([body[:cut], body[cut:]])] == [data]


@given(st.data())
async def test_arbitrary_bytes_come_through_exactly(data: st.DataObject) -> None:
    files = data.draw(
        st.lists(st.binary(max_size=300) | st.text("\r\n-Bb", max_size=60).map(str.encode), max_size=4)
    )
    files = [content for content in files if b"\r\n--BbB" not in b"\r\n" + content]
    body = form(*((f'name="f"; filename="{n}"', content) for n, content in enumerate(files)))
    size = data.draw(st.integers(min_value=1, max_value=50))
    got = await read(body[at : at + size] for at in range(0, len(body), size))
    assert [content for _, content in got] == files


async def test_an_unfilled_file_field_is_ignored_and_one_with_bytes_is_not() -> None:
    body = form(('name="file"; filename=""', b""), ('name="file"; filename=""', b"x"), ('name="t"', b""))
    assert await read([body]) == [(Part("file", "", None), b"x"), (Part("t", None, None), b"")]


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
async def test_the_limit_counts_received_bytes_and_stops_at_the_chunk_that_passes_it(size: int) -> None:
    body = form(('name="file"; filename="two.bin"', bytes(2000)))
    whole = len(body)
    pieces = [body[at : at + size] for at in range(0, whole, size)]
    assert len(await read(pieces, limit=whole)) == 1
    sink = Kept()
    source = Chunks(pieces)

    async def on_part(part: Part) -> Sink:
        return sink

    with pytest.raises(TooLarge) as caught:
        await read_parts(TYPE, source, limit=1000, on_part=on_part)
    assert caught.value.limit == 1000
    assert source.given <= 1000 + size
    assert sum(map(len, sink.pieces)) <= 1000


async def test_what_follows_the_last_boundary_counts_too() -> None:
    body = form(('name="a"', b"1"))
    assert await read([body, b"epilogue"]) == [(Part("a", None, None), b"1")]
    with pytest.raises(TooLarge):
        await read([body, b"epilogue"], limit=len(body))


@pytest.mark.parametrize("data", [b"x" * 50, b""])
async def test_a_body_that_ends_anywhere_before_its_end_was_cut_off(data: bytes) -> None:
    body = form(('name="file"; filename="x"', data), ('name="user_id"', b"1"))
    for end in range(1, len(body) - 2):
        with pytest.raises(CutOff):
            await read([body[:end]])


async def test_the_sink_of_a_part_that_was_cut_off_is_closed_once() -> None:
    sink = Kept()

    async def on_part(part: Part) -> Sink:
        return sink

    with pytest.raises(CutOff):
        await read_parts(
            TYPE, Chunks([form(('name="f"; filename="x"', b"12"), end=b"")]), limit=None, on_part=on_part
        )
    assert sink.closed == 1


async def test_the_sink_is_closed_when_the_reader_is_cancelled() -> None:
    sink = Kept()

    async def on_part(part: Part) -> Sink:
        return sink

    async def endless() -> AsyncIterator[bytes]:
        yield form(('name="f"; filename="x"', b"12"), end=b"")
        scope.cancel()
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        await read_parts(TYPE, endless(), limit=None, on_part=on_part)
    assert scope.cancelled_caught
    assert sink.closed == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b'{"json": true}',
        b"--BbC\r\n",
        b"--BbB\nContent-Disposition: form-data",
        b"--BbB\r\nContent-Type: text/plain\r\n\r\nx\r\n--BbB--\r\n",
        b"--BbB\r\nno header\r\n\r\nx\r\n--BbB--\r\n",
        form(("name=\"file\"; filename*=klingon''x", b"")),
        form(("name=\"file\"; filename*=UTF-8''%FF%FE", b"")),
        form(('filename="x"', b"")),
        form(('name="a"\r\nContent-Disposition: form-data; name="b"', b"")),
        form(('name="a"\r\nContent-Transfer-Encoding: base64', b"")),
        form(('name="a"\r\nContent-Length: 3', b"12")),
        form(('name="a"; filename="x\ny"', b"")),
        form(('name="a"; filename="x\0y"', b"")),
        form(('name="' + "a" * 20_000 + '"', b"")),
        form(('name="a"' + "\r\nX: y" * 20, b"")),
        b'--BbB\r\nContent-Disposition: form-data; name="a\xff"\r\n\r\n\r\n--BbB--\r\n',
    ],
)
async def test_a_malformed_body_is_refused_with_its_reason_however_it_is_split(body: bytes) -> None:
    for size in (1, 3, len(body) or 1):
        with pytest.raises(BadRequest) as caught:
            await read([body[at : at + size] for at in range(0, len(body), size)])
        assert caught.value.detail
        assert "egment" not in caught.value.detail  # the parser's word


async def test_more_than_ten_thousand_parts_are_refused() -> None:
    part = form(('name="a"', b""), end=b"")
    assert len(await read([part * 10_000, b"--BbB--"])) == 10_000
    with pytest.raises(BadRequest, match="more than 10000 parts"):
        await read([part * 10_001, b"--BbB--"])


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=BbB",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 500,
    ],
)
async def test_another_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest, match="Content-Type"):
        await read([form(('name="a"', b""))], content_type=content_type)


async def test_a_quoted_boundary_is_understood() -> None:
    assert await read(
        [form(('name="a"', b"1"))], content_type='Multipart/Form-Data; charset=x; boundary="BbB"'
    )


async def test_writes_are_collected_and_memory_does_not_grow_with_the_file() -> None:
    total, piece = 64 << 20, bytes(64 << 10)
    sizes: list[int] = []

    class Counted:
        async def write(self, data: bytes) -> None:
            sizes.append(len(data))

        async def close(self) -> None: ...

    async def on_part(part: Part) -> Sink:
        return Counted()

    async def source() -> AsyncIterator[bytes]:
        yield form(('name="f"; filename="big"', b""), end=b"")[:-2]
        for _ in range(total // len(piece)):
            yield piece
        yield b"\r\n--BbB--\r\n"

    tracemalloc.start()
    try:
        await read_parts(TYPE, source(), limit=None, on_part=on_part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == total
    assert len(sizes) <= total // WRITE + 1
    assert max(sizes) <= WRITE + len(piece)
    assert peak < 6 << 20


async def test_a_large_chunk_is_taken_in_slices() -> None:
    data = bytes(8 << 20)
    [(_, got)] = await read([form(('name="f"; filename="big"', data))])
    assert got == data


async def test_a_part_that_nobody_wants_is_skipped() -> None:
    async def on_part(part: Part) -> Sink | None:
        return None

    await read_parts(TYPE, Chunks([form(('name="a"', b"1" * 100))]), limit=None, on_part=on_part)


async def texts(body: bytes, limit: int = 65536) -> list[TextSink]:
    sinks: list[TextSink] = []

    async def on_part(part: Part) -> Sink:
        sinks.append(TextSink(part.name, limit))
        return sinks[-1]

    await read_parts(TYPE, Chunks([body]), limit=None, on_part=on_part)
    return sinks


async def test_a_text_field_is_utf_8_whatever_charset_is_claimed() -> None:
    fields = await texts(form(('name="_charset_"', b"iso-8859-1"), ('name="service"', "é".encode())))
    assert [field.text for field in fields] == ["iso-8859-1", "é"]
    [field] = await texts(form(('name="service"', b"\xff")))
    with pytest.raises(BadRequest, match="'service'"):
        assert field.text


async def test_a_text_field_that_is_too_long_is_refused_by_name() -> None:
    assert (await texts(form(('name="n"', b"x" * 65536))))[0].text == "x" * 65536
    with pytest.raises(BadRequest, match="'n'"):
        await texts(form(('name="n"', b"x" * 65537)))


HEADS = (
    'form-data; name="user_id"',
    'form-data; name="file"; filename="run.sh"\r\nContent-Type: application/octet-stream',
    'form-data; name="file"; filename=""',
    "form-data; name=a; filename*=UTF-8''%c3%a4",
    'form-data; name="\u00e4"; filename="a\r\n b"',
    'form-data; name="n"\r\nContent-Length: 3',
    'form-data; name="n"\r\nContent-Disposition: form-data; name="m"',
    'form-data; name="n"\r\n--BbB: x',
    'form-data; name="n"\r\nContent-Type: multipart/mixed; boundary=x',
    "attachment",
    'form-data; name="f"; filename="' + "n" * 2000 + '"',
)
DATA = (b"7", b"", b"\r\n", b"abc", b"\r\n--Bb", b"--BbB\r\n", b"\r\n\r\n", b"x" * 70_000)


def make_body(rng: random.Random) -> bytes:
    """A form, and mostly a flaw in it."""
    parts = [
        b"\r\nContent-Disposition: %s\r\n\r\n%s\r\n"
        % (rng.choice(HEADS[: rng.choice((3, len(HEADS)))]).encode(), rng.choice(DATA))
        for _ in range(rng.randrange(4))
    ]
    raw = bytearray(
        b"--BbB" + b"--BbB".join([*parts, rng.choice((b"--\r\n", b"--", b"-- \r\n--BbB", b"\r\n", b""))])
    )
    if rng.random() < 0.5:
        at = rng.randrange(min(len(raw), 300) + 1)
        raw[at : at + rng.randrange(3)] = rng.choice(
            (b"", b"\r\n", b"--BbB", b"\n", b":", b"\xff", b"\r\n\r\n")
        )
    return bytes(raw)


async def told_of(body: AsyncIterator[bytes], refuse: Callable[[], bool]) -> list[object]:
    """What comes of a body, step by step; whatever is asked is refused where `refuse` says so."""
    told: list[object] = []

    class Told:
        async def write(self, data: bytes) -> None:
            told.append(data)
            if refuse():
                raise BadRequest("not these bytes")

        async def close(self) -> None:
            told.append("closed")
            if refuse():
                raise BadRequest("not this one")

    async def on_part(part: Part) -> Sink | None:
        told.append(part)
        if refuse():
            raise BadRequest("not this part")
        return None if part.name == "n" else Told()

    try:
        await read_parts(TYPE, body, limit=72_000, on_part=on_part)
    except WireError as error:
        told.append((type(error), str(error)))
    return told


async def test_a_body_that_is_here_already_is_read_or_refused_as_one_that_comes() -> None:
    rng, at_once = random.Random(7), 0
    for seed in range(4000):
        raw = make_body(rng)
        pieces = [raw[: (at := rng.randrange(len(raw) + 1))], raw[at:]] if rng.random() < 0.3 else [raw]
        as_it_comes = await told_of(Chunks(pieces), partial(often, random.Random(seed)))
        assert await told_of(Pieces(pieces), partial(often, random.Random(seed))) == as_it_comes, raw[:500]
        at_once += cut_whole(raw, b"BbB") is not None
    assert 500 < at_once < 3500, "of some kind there was too little"


def often(rng: random.Random) -> bool:
    return rng.random() < 0.1
