"""A client that sends the beginning of a body without end, and then only listens."""

from __future__ import annotations

import re

import trio


async def answer_to_beginning(url: str, path: str, content_type: str, beginning: bytes) -> tuple[int, bytes]:
    """Status and body of what is answered although the rest never comes."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with trio.move_on_after(20):  # the last pieces of a refused body may meet a closed connection
            for at in range(0, len(beginning), 1 << 16):
                piece = beginning[at : at + (1 << 16)]
                await stream.send_all(b"%x\r\n%b\r\n" % (len(piece), piece))
        said = b""
        with trio.fail_after(60):
            while not _is_whole(said):
                piece = await stream.receive_some()
                assert piece, f"closed after {said!r}"
                said += piece
    return int(said.split()[1]), said.partition(b"\r\n\r\n")[2]


def _is_whole(said: bytes) -> bool:
    head, blank, body = said.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    return bool(blank) and length is not None and len(body) >= int(length.group(1))
