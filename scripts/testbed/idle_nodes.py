"""Many nodes that do nothing, in one process: python idle_nodes.py COUNT

Each has an address of its own, says who it is and how busy it claims to be, and has no jobs. The addresses
are printed in one line as JSON once all of them listen.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from typing import Any, Final

import trio

from actors.wire.protocol.attempts import PROTOCOL

SLOTS: Final = 8
EVERY: Final = 1.0
MOST_HEAD: Final = 1 << 16


class IdleNode:
    """One of them. `number` tells it from the others."""

    def __init__(self, number: int) -> None:
        self._id = f"{number:032x}"
        self._rng = random.Random(number)

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                head = b""
                while True:
                    while b"\r\n\r\n" not in head:
                        piece = await stream.receive_some()
                        if not piece or len(head) > MOST_HEAD:
                            return
                        head += piece
                    asked, _, head = head.partition(b"\r\n\r\n")
                    await self._answer(stream, asked.split(b" ")[1].decode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _answer(self, stream: trio.SocketStream, path: str) -> None:
        if path.startswith("/v1/events"):
            await self._tell(stream)
            return
        body = json.dumps({"protocol": PROTOCOL, "node_id": self._id, "slots": SLOTS}).encode()
        status = b"200 OK" if path.startswith("/v1/info") else b"404 Not Found"
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await stream.send_all(head % (status, len(body)) + body)

    async def _tell(self, stream: trio.SocketStream) -> None:
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        mark = {"incarnation": "1" * 32, "sequence": 0}
        event: dict[str, Any] = {"event": "picture", "payloads": [], **mark}
        await trio.sleep(self._rng.random() * EVERY)  # not all of them at the same moment
        while True:
            line = json.dumps({**event, "heartbeat": self._heartbeat()}).encode() + b"\n"
            await stream.send_all(b"%x\r\n%b\r\n" % (len(line), line))
            event = {"event": "heartbeat", "sequence": 0}
            await trio.sleep(EVERY)

    def _heartbeat(self) -> dict[str, Any]:
        return {
            "load": round(self._rng.uniform(5, 95), 1),
            "slots": SLOTS,
            "cores": SLOTS,
            "held": {"somebody else": self._rng.randrange(SLOTS)},
            "free_disk": 400 << 30,
            "free_memory": 16 << 30,
        }


async def main(count: int) -> None:
    urls = []
    async with trio.open_nursery() as nursery:
        for number in range(1, count + 1):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            urls.append(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
            nursery.start_soon(trio.serve_listeners, IdleNode(number).serve, [listener])
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            print(f"listening on {json.dumps(urls, separators=(',', ':'))}", flush=True)
            await anext(signals)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
