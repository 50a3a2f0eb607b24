"""The last lines of a file, found from its end."""

from __future__ import annotations

from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from actors.wire.files import last_lines
from actors.wire.files.last_lines import LastLines, Tail


@given(st.text("a\n", max_size=30).map(str.encode), st.integers(0, 12), st.integers(1, 7))
@example(b"", 3, 4)
def test_they_are_those_that_tail_gives_and_no_more_is_read_than_needed(
    data: bytes, lines: int, piece: int
) -> None:
    with mock.patch.object(last_lines, "PIECE", piece):
        last, read = LastLines(len(data), lines), 0
        while (missing := last.missing) is not None:
            length, offset = missing
            assert 0 < length <= piece
            last.take(data[offset : offset + length])
            read += length
    told = data.splitlines(keepends=True)
    wanted = b"".join(told[-lines:] if lines else [])
    assert last.tail == Tail(len(data) - len(wanted), len(data))
    assert read <= len(wanted) + 1 + piece
