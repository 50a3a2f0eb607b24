"""Users that are nobody else's."""

from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.confinement.tier_settings import UidRange
from node.executors.shepherded_run import ShepherdedRun
from node.executors.uids import Uids


class _Run(ShepherdedRun):
    def __init__(self) -> None:
        self.lives = True

    def alive(self) -> bool:
        return self.lives


@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["take", "give back", "start", "end"]))))
def test_no_two_payloads_have_one_uid_at_a_time(steps: list[tuple[int, str]]) -> None:
    uids = Uids(UidRange(5000, 5004))
    starting: dict[str, int] = {}
    running: dict[str, tuple[int, _Run]] = {}
    for number, step in steps:
        key = f"{number}"
        if step == "take" and key not in running:
            others = {uid for other, uid in starting.items() if other != key}
            taken = others | {uid for uid, run in running.values() if run.lives}
            if key not in starting and len(taken) == 5:
                with pytest.raises(LookupError):
                    uids.take(key)
                continue
            uid = uids.take(key)
            assert uid in uids.range and uid not in taken
            assert starting.setdefault(key, uid) == uid == uids.taken_by(key)
        elif step == "give back" and key in starting:
            uids.give_back(key)
            del starting[key]
            assert uids.taken_by(key) is None
        elif step == "start" and key in starting:
            running[key] = starting.pop(key), _Run()
            uids.note(*running[key])
            uids.give_back(key)
        elif step == "end" and key in running:
            running.pop(key)[1].lives = False


def test_threads_that_take_at_once_take_different_ones() -> None:
    uids, taken = Uids(UidRange(5000, 5199)), []
    threads = [
        Thread(target=lambda first=first: taken.extend(uids.take(f"{first}.{each}") for each in range(25)))
        for first in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 200
