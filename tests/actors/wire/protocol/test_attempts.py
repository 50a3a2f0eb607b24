"""What a node says of attempts, read by who believes nothing of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from actors.domain.failure import Failure
from actors.domain.job import End
from actors.domain.node import PayloadView
from actors.domain.status import Status
from actors.wire.protocol.attempts import Garbled, view_from_json, view_to_json

END = End(Status.FAILED, "exit code 3", 3, None, 10.5, 12.25, 1.75, 0.5, 4096, size=7, failure=Failure.MEMORY)


def said(**end: Any) -> Any:
    view = json.loads(json.dumps(view_to_json(PayloadView("k", END.status, END))))
    view["end"] |= end
    return view


def test_an_end_comes_as_it_was_told() -> None:
    assert view_from_json(said()) == PayloadView("k", END.status, END)
    assert view_from_json(said(wall_seconds=2)).end == replace(END, wall_seconds=2.0)
    assert view_from_json(said(failure="of a newer node")).end is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "Ended"),
        ("status", ["Failed"]),
        ("message", 1),
        ("exit_code", True),
        ("exit_code", 3.0),
        ("exit_code", 1 << 63),
        ("wall_seconds", "1"),
        ("wall_seconds", False),
        ("wall_seconds", float("nan")),
        ("wall_seconds", float("inf")),
        ("wall_seconds", 10**400),
        ("started_at", 12),
        ("started_at", "yesterday"),
    ],
)
def test_what_is_no_end_is_garbled(field: str, value: object) -> None:
    with pytest.raises(Garbled, match=field):
        view_from_json(said(**{field: value}))
