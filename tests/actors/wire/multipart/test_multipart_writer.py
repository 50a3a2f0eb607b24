from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.wire.errors import BadRequest, SourceChanged
from actors.wire.multipart.reader import Part, Sink, read_parts
from actors.wire.multipart.writer import DataPart, FilePart, MultipartBody


class Kept:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data

    async def close(self) -> None: ...


async def read(body: MultipartBody) -> list[tuple[Part, bytes]]:
    got: list[tuple[Part, Kept]] = []

    async def on_part(part: Part) -> Sink:
        got.append((part, Kept()))
        return got[-1][1]

    await read_parts(body.content_type, aiter(body), limit=body.content_length, on_part=on_part)
    return [(part, sink.data) for part, sink in got]


def stored(path: Path, name: str, filename: str, data: bytes) -> FilePart:
    path.write_bytes(data)
    return FilePart(name, filename, path, len(data))


def file(directory: Path, name: str, data: bytes) -> FilePart:
    return stored(directory / name, "file", name, data)


def open_files() -> set[str]:
    names = set()
    for handle in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            names.add(os.readlink(f"/proc/self/fd/{handle}"))
    return names


_NAMES = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from('\\"%2;=\r\n'),
    min_size=1,
    max_size=20,
)


@settings(max_examples=50)
@given(st.lists(st.tuples(_NAMES, _NAMES, st.binary(max_size=2000), st.booleans()), max_size=6))
async def test_what_is_sent_is_what_is_read(parts: list[tuple[str, str, bytes, bool]]) -> None:
    with TemporaryDirectory() as directory:
        sent = [
            stored(Path(directory, str(n)), name, filename, data)
            if on_disk
            else DataPart(name, filename, "a/b", data)
            for n, (name, filename, data, on_disk) in enumerate(parts)
        ]
        assert await read(MultipartBody([*sent, DataPart("user_id", None, None, b"1")])) == [
            *(
                (Part(name, filename, "application/octet-stream" if on_disk else "a/b"), data)
                for name, filename, data, on_disk in parts
            ),
            (Part("user_id", None, None), b"1"),
        ]


async def test_the_length_is_stated_exactly_and_large_files_come_in_pieces(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    body = MultipartBody(
        [file(tmp_path, "big", data), file(tmp_path, "none", b""), file(tmp_path, "é", b"x")]
    )
    pieces = [piece async for piece in body]
    assert sum(map(len, pieces)) == body.content_length
    assert max(map(len, pieces)) <= 2 * 256 * 1024
    assert [got for _, got in await read(body)] == [data, b"", b"x"]  # and it can be sent again


async def test_many_small_files_do_not_cost_a_thread_each(tmp_path: Path) -> None:
    body = MultipartBody([file(tmp_path, str(n), b"x" * 100) for n in range(200)])
    assert len([piece async for piece in body]) == 1


@pytest.mark.parametrize("found", [b"123", b"12345", None, "link", "fifo", "directory"])
async def test_a_file_that_is_not_as_announced_fails_the_body(
    tmp_path: Path, found: bytes | str | None
) -> None:
    part = file(tmp_path, "in.pdb", b"1234")
    part.path.unlink()
    if isinstance(found, bytes):
        part.path.write_bytes(found)
    elif found == "link":
        (tmp_path / "other").write_bytes(b"1234")
        part.path.symlink_to("other")
    elif found == "fifo":
        os.mkfifo(part.path)
    elif found == "directory":
        part.path.mkdir()
    with pytest.raises((SourceChanged, OSError), match=r"in\.pdb"):
        async for _ in MultipartBody([part]):
            pass


async def test_a_file_that_changes_while_it_is_sent_fails_the_body(tmp_path: Path) -> None:
    part = file(tmp_path, "in.pdb", bytes(4 << 20))
    body = aiter(MultipartBody([part]))
    await anext(body)
    os.truncate(part.path, 2_400_000)
    with pytest.raises(SourceChanged, match=r"in\.pdb"):
        async for _ in body:
            pass
    os.truncate(part.path, 4 << 20)
    body = aiter(MultipartBody([part]))
    await anext(body)
    file(tmp_path, "new", bytes(4 << 20)).path.replace(part.path)
    with pytest.raises(SourceChanged, match="replaced"):
        async for _ in body:
            pass


async def test_a_body_left_in_the_middle_leaves_no_file_open(tmp_path: Path) -> None:
    part = file(tmp_path, "in.pdb", bytes(1 << 20))
    body = aiter(MultipartBody([part]))
    await anext(body)
    assert str(part.path) not in open_files()


async def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadRequest):
        MultipartBody([DataPart("f", "\udcff", None, b"")])


async def test_httpx_sends_it_with_its_length(tmp_path: Path) -> None:
    data = os.urandom(700_000)
    body = MultipartBody([file(tmp_path, "in.pdb", data), DataPart("user_id", None, None, b"1")])
    seen: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        await request.aread()
        return httpx.Response(201)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://node") as client:
        await client.post("/submit", content=body, headers=body.headers)
    [request] = seen
    assert request.headers["Content-Length"] == str(body.content_length) == str(len(request.content))
    assert "Transfer-Encoding" not in request.headers
    assert request.headers["Content-Type"] == body.content_type
    assert data in request.content
