"""Values of `/v1` as JSON and back: what is unknown passes, what lacks is as the type has it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from orchestrator.contract.bodies import Job, JobCallback, LeftOutFile, Service, ServiceNodes
from orchestrator.contract.codec import BodyError, from_json, to_json

AT = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
JOB = Job(
    7,
    42,
    "docking",
    "Completed",
    "",
    97,
    tags=("paper",),
    created_at=AT,
    progress=1.0,
    callback=JobCallback("https://portal.example.org/done", "delivered", settled_at=AT),
    files_left_out=(LeftOutFile("pipe", "no file"),),
)


def test_a_value_comes_back_as_it_was() -> None:
    body = to_json(JOB)
    assert (body["user_id"], body["tags"], body["created_at"]) == (42, ["paper"], "2026-01-31T12:00:00.250Z")
    assert body["files_left_out"] == [{"path": "pipe", "reason": "no file"}]
    assert "raw" not in body and body["ended_at"] is None
    found = from_json(Job, body)
    assert found == JOB and found.raw == body
    service = Service("docking", 5, 10, {"Queued": 1}, pause_reason="full", nodes=ServiceNodes(2, 1, None, 3))
    assert from_json(Service, to_json(service)) == service and to_json(service)["paused"] == "full"


def test_what_is_unknown_stays_in_raw_and_what_an_older_server_does_not_send_is_as_the_type_has_it() -> None:
    body = {"id": 1, "user_id": 1, "service": "x", "status": "Odd", "message": "", "version": 1, "new": [1]}
    found = from_json(Job, body)
    assert found == Job(1, 1, "x", "Odd", "", 1) and found.raw["new"] == [1]
    assert from_json(Job, body | {"progress": 7}).progress == 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "a job came without what belongs to it.*id"),
        ({"version": "soon"}, "soon"),
        ({"created_at": "yesterday"}, "yesterday"),
        ({"tags": 5}, "not iterable"),
        ({"callback": "none"}, "instead of a jobcallback came 'none'"),
    ],
)
def test_what_is_no_job_is_refused_in_words(change: dict[str, object], said: str) -> None:
    with pytest.raises(BodyError, match=said):
        from_json(Job, to_json(JOB) | change)
    with pytest.raises(BodyError, match="instead of a job came"):
        from_json(Job, [change])
