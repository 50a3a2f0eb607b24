"""A payload changes by its fields' names, and is otherwise as it was."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from actors.domain.payload import Payload, change_payload
from actors.domain.status import Status

PAYLOAD = Payload("a" * 32, 1, 2, 3, "s", 4, "o", Status.PREPARED, 5, 6.0, slot_wait=7.0, request_id="r")


def test_a_change_of_any_field_is_what_replace_makes_of_it() -> None:
    for field in fields(Payload):
        changes = {field.name: object()}
        assert change_payload(PAYLOAD, **changes) == replace(PAYLOAD, **changes)
    assert change_payload(PAYLOAD) == PAYLOAD


def test_a_field_that_there_is_not_cannot_change() -> None:
    with pytest.raises(TypeError):
        change_payload(PAYLOAD, stat=Status.RUNNING)
