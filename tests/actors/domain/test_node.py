"""What a node tells of a payload, as a person reads it."""

from __future__ import annotations

import pytest

from actors.domain.failure import Failure
from actors.domain.job import End
from actors.domain.node import PayloadView
from actors.domain.status import Status


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (None, "node n1 lost it"),
        (End(Status.FAILED, ""), "node n1 lost it"),
        (End(Status.FAILED, "its record is damaged"), "node n1 lost it: its record is damaged"),
        (
            End(Status.FAILED, "could not be started: no bash", failure=Failure.NODE),
            "on node n1 it could not be started: no bash",
        ),
        (
            End(Status.FAILED, "no slot was free for it in time", failure=Failure.NOT_RUN),
            "node n1 had no slot for it in time",
        ),
    ],
)
def test_a_loss_is_told_with_what_the_node_says_of_it(end: End | None, told: str) -> None:
    assert PayloadView("k" * 32, Status.FAILED, end, lost=True).tell_loss("n1") == told
