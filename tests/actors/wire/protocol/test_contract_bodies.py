from __future__ import annotations

import json

import pytest

from actors.domain.status import Status
from actors.wire.protocol.contract import payload_body, rfc3339, status_body


def test_a_status_body_has_the_contract_s_keys_in_its_order() -> None:
    assert json.dumps(status_body(7, Status.QUEUED, "…"), ensure_ascii=False) == (
        '{"id": 7, "status": "Queued", "message": "…"}'
    )


def test_a_payload_has_every_key_that_foreign_servers_ask_for() -> None:
    assert json.dumps(payload_body(3, Status.PREPARED, "/data/3", 0, False)) == (
        '{"id": 3, "input": {}, "status": "Prepared", "loc": "/data/3", "pid": 0, "killed": false}'
    )


@pytest.mark.parametrize(
    ("pid", "told"), [(4_194_304, 4_194_304), (2**31 - 1, 2**31 - 1), (2**31, 0), (-1, 0)]
)
def test_a_pid_that_does_not_fit_is_told_as_none(pid: int, told: int) -> None:
    assert payload_body(1, "Running", "", pid, False)["pid"] == told


@pytest.mark.parametrize("id", [-1, 2**32])
def test_an_id_that_does_not_fit_is_never_written(id: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        status_body(id, "Unknown", "")
    assert status_body(2**32 - 1, "Unknown", "")["id"] == 2**32 - 1


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_651_200.25) == "2026-11-26T00:00:00.250Z"
    for ts in (1e30, float("nan")):
        with pytest.raises(ValueError, match="is no time"):
            rfc3339(ts)
