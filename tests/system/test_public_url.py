"""Under which names a server answers, and whose pages may give orders there."""

from __future__ import annotations

import httpx
from support.processes.processes import PATIENCE, Place

FORM = {"files": {"file": ("run.sh", b"true")}, "data": {"user_id": "1", "service": "example"}}


def test_the_public_address_is_answered_and_its_pages_may_upload(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"], PUBLIC_URL="https://jobs.example.org/portal")
    token = here.credentials("server")
    portal = {"Host": "jobs.example.org", "Origin": "https://jobs.example.org", **token}
    evil = {"Host": "evil.example", "Origin": "http://evil.example"}
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        assert client.get("/v1/jobs", headers=portal).status_code == 200
        assert client.post("/upload", headers=portal, **FORM).status_code == 201
        assert client.get("/v1/jobs", headers=evil).status_code == 421
        assert client.post("/upload", headers=evil, **FORM).status_code == 403
        assert len(client.get("/v1/jobs").json()["items"]) == 1
