"""An HTTP endpoint that answers EC2's requests as a test says: for what moto never does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"

Answer = tuple[int, str] | None
"""Status and body; None: the answer does not come before the test has ended."""


class Ec2Stub:
    """`answer` gets each request's parameters. `asked` has them all, in order."""

    def __init__(self, answer: Callable[[Mapping[str, str]], Answer]) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, str]] = []
        self.url = ""
        self.over = threading.Event()

    def actions(self) -> list[str]:
        return [one["Action"] for one in self.asked]


@contextmanager
def ec2_stub(answer: Callable[[Mapping[str, str]], Answer]) -> Iterator[Ec2Stub]:
    stub = Ec2Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parameters = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            stub.asked.append(parameters)
            answer = stub.answer(parameters)
            if answer is None:
                stub.over.wait()
                self.close_connection = True
                return
            status, text = answer
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to say."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield stub
        finally:
            stub.over.set()
            server.shutdown()
            thread.join()


def error(status: int, code: str, message: str = "told by the stub") -> Answer:
    body = f"<Code>{code}</Code><Message>{message}</Message>"
    return status, f"<Response><Errors><Error>{body}</Error></Errors><RequestID>r</RequestID></Response>"


def reservations(*instances: str, next_token: str = "") -> Answer:
    sets = "".join(f"<item><instancesSet>{one}</instancesSet></item>" for one in instances)
    more = f"<nextToken>{next_token}</nextToken>" if next_token else ""
    return 200, (
        f'<DescribeInstancesResponse xmlns="{NAMESPACE}"><reservationSet>{sets}</reservationSet>{more}'
        "</DescribeInstancesResponse>"
    )


def started(instance: str) -> Answer:
    return 200, (
        f'<RunInstancesResponse xmlns="{NAMESPACE}"><instancesSet>{instance}</instancesSet>'
        "</RunInstancesResponse>"
    )


def instance(machine_id: str, state: str, tags: Mapping[str, str]) -> str:
    """Without any address, as a new one is."""
    pairs = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    return (
        f"<item><instanceId>{machine_id}</instanceId><instanceState><code>0</code><name>{state}</name>"
        f"</instanceState><tagSet>{pairs}</tagSet></item>"
    )
