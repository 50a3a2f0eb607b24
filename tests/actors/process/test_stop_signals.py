"""A process is asked to stop by signals, which do not end it."""

from __future__ import annotations

import signal

import pytest
import trio

from actors.process.stop_signals import signals_to_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_waited_for_and_a_second_one_kills_nothing(number: signal.Signals) -> None:
    with trio.fail_after(60), signals_to_stop() as signals:
        for _ in range(2):
            signal.raise_signal(number)
            assert await anext(signals) == number
