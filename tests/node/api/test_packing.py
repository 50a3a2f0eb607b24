"""What a job has left, gathered into frames."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from actors.wire.files.zip_writer import Known
from actors.wire.protocol.frames import MAX_FRAME
from node.api.packing import gather

KNOWN = Known("input", 5, 1)
PIECES = st.lists(st.integers(0, 9).map(bytes) | st.sampled_from([MAX_FRAME - 5, MAX_FRAME + 5]).map(bytes))


@given(st.lists(PIECES, min_size=1, max_size=3))
def test_frames_are_as_full_as_pieces_allow_and_what_is_known_stands_where_it_did(
    runs: Sequence[Sequence[bytes]],
) -> None:
    """`runs`: what comes between files that are not sent."""
    pieces: list[bytes | Known] = []
    for number, run in enumerate(runs):
        pieces += [KNOWN, *run] if number else run
    found: list[list[int]] = [[]]
    for part in gather(pieces):
        if isinstance(part, Known):
            found.append([])
        else:
            found[-1].append(sum(map(len, part)))
    assert [sum(sizes) for sizes in found] == [sum(map(len, run)) for run in runs]
    for sizes, run in zip(found, runs, strict=True):
        assert all(0 < size <= MAX_FRAME for size in sizes)
        largest = max((min(len(piece), MAX_FRAME) for piece in run), default=0)
        assert all(one + largest > MAX_FRAME for one in sizes[:-1])
