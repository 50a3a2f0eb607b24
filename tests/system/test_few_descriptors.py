"""A server that may have few descriptors: short connections, idle ones, and clients that leave."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import psutil
import pytest
from support.processes.processes import COMMAND, PATIENCE, Place, Started

FEW = ("sh", "-c", 'ulimit -n 256; exec "$0" "$@"', *COMMAND)
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=["server", "node"])
def few(request: pytest.FixtureRequest, here: Place) -> Started:
    environment = {"PORT": "0", "SERVICE_EXAMPLE_NODES": "http://127.0.0.1:9"}
    return here.start(request.param, name=request.param, environment=environment, command=FEW)


def connect(started: Started) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", int(started.port)))
    made.settimeout(PATIENCE)
    return made


def ask(connection: socket.socket) -> bytes:
    connection.sendall(GET)
    return connection.recv(65536)


def until_back(started: Started, before: int) -> None:
    """Descriptors have no event to wait for; they are promised back within 5 s."""
    deadline = time.monotonic() + PATIENCE
    while psutil.Process(started.pid).num_fds() > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_more_short_connections_than_descriptors_are_answered_and_leave_nothing(few: Started) -> None:
    before = psutil.Process(few.pid).num_fds()
    for _ in range(300):
        with connect(few) as one:
            assert ask(one).startswith(b"HTTP/1.1 200 ")
    until_back(few, before)


def test_clients_that_leave_without_a_word_leave_nothing(few: Started) -> None:
    before = psutil.Process(few.pid).num_fds()
    for _ in range(300):
        connect(few).close()
    until_back(few, before)


def test_idle_connections_keep_nobody_out(few: Started) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            assert ask(stack.enter_context(connect(few))).startswith(b"HTTP/1.1 200 ")
        assert psutil.Process(few.pid).num_fds() < 256
    assert "descriptors" not in few.errors() and "Too many open files" not in few.errors()
