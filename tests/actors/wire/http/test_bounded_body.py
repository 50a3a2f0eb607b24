"""What waits of a body takes no more memory than its bytes, however it came."""

from __future__ import annotations

import random

import trio

from actors.wire.http.backpressure import BoundedBody


async def test_small_pieces_are_kept_together_and_large_ones_as_they_came() -> None:
    draw = random.Random(1)
    sizes = [draw.choice((1, 2, 500, 20_000)) for _ in range(300)]
    pieces = [draw.randbytes(size) for size in sizes]
    body = BoundedBody(None, None)
    for piece in pieces:
        body.append(piece)
    kept = vars(body._data)["_pieces"]
    assert len(kept) <= 2 * sizes.count(20_000) + 1
    assert [piece for piece in kept if isinstance(piece, bytes)] == [p for p in pieces if len(p) == 20_000]
    body.set_complete()
    with trio.fail_after(5):
        assert b"".join([piece async for piece in body]) == b"".join(pieces)


async def test_a_piece_that_came_alone_is_handed_on_as_it_is() -> None:
    body, piece = BoundedBody(None, None), bytes(20_000)
    body.append(piece)
    assert await anext(body) is piece
