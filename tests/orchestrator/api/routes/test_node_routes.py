"""Joining, leaving and draining over real HTTP; who answers at an address is said by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes.api_server import Server, api_server

from actors.domain.node import NodeRef, NodeState, NodeView
from orchestrator.nodes.native.events import Introduction, NodeKind

ID, OTHER = "a" * 32, "b" * 32
URL = "http://10.0.0.7:9000"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        running.nodes.at[URL] = Introduction(NodeKind.NATIVE, ID)
        yield running


def body(**changes: Any) -> dict[str, Any]:
    whole = {"id": ID, "url": URL, "services": ["example"], "slots": 2, "labels": {"gpu": "a100"}}
    return {**whole, **changes}


async def join(server: Server, **changes: Any) -> httpx.Response:
    return await server.client.post("/v1/nodes", json=body(**changes))


def view(node_id: str = ID, *services: str, joined: bool = False) -> NodeView:
    return NodeView(
        NodeRef(node_id, URL), NodeState.READY, "", services, 2, 0, 0, 0.0, joined=joined, cores=2
    )


async def test_a_node_that_joins_is_followed_and_kept(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await join(server, url=URL + "/", services=["other", "example"], machine="c" * 32)
    assert answer.status_code == 201, answer.text
    assert str(answer.url.join(answer.headers["location"])).endswith(f"/v1/nodes/{ID}")
    assert answer.json() == {
        "id": ID,
        "url": URL,
        "services": ["example"],
        "unknown_services": ["other"],
    }
    assert f"node {ID} joined for other, which is no service here; known: example" in caplog.messages
    (row,) = await server.ledger.nodes()
    assert (row.url, row.services, row.slots, row.machine) == (URL, ("example",), 2, "c" * 32)
    assert [address.url for address in server.registry.addresses()] == [URL]
    (member,) = server.registry.members()
    assert (member.node_id, member.labels) == (ID, {"gpu": "a100"})


async def test_joining_again_changes_nothing_and_asks_nobody(server: Server) -> None:
    await join(server)
    before = server.registry.addresses()
    server.nodes.at.clear()
    again = await join(server)
    assert (again.status_code, server.registry.addresses() is before) == (200, True)


async def test_a_node_may_come_back_at_another_address(server: Server) -> None:
    await join(server)
    server.nodes.at["http://10.0.0.8:9000"] = Introduction(NodeKind.NATIVE, ID)
    assert (await join(server, url="http://10.0.0.8:9000")).status_code == 200
    assert [address.url for address in server.registry.addresses()] == ["http://10.0.0.8:9000"]


async def test_who_had_the_address_before_has_left(server: Server) -> None:
    await join(server)
    server.nodes.at[URL] = Introduction(NodeKind.NATIVE, OTHER)
    assert (await join(server, id=OTHER)).status_code == 201
    assert [row.node_id for row in await server.ledger.nodes()] == [OTHER]


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        (Introduction(NodeKind.NATIVE, OTHER), 409, "other_node"),
        (Introduction(NodeKind.CONTRACT_ONLY), 422, "no_node"),
        (Introduction(NodeKind.UNCLEAR, reason="no route to host"), 422, "unreachable_node"),
    ],
)
async def test_what_does_not_answer_as_it_says_is_refused(
    server: Server, who: Introduction, status: int, code: str
) -> None:
    server.nodes.at[URL] = who
    answer = await join(server)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert URL in answer.json()["detail"]
    assert not await server.ledger.nodes()


async def test_a_machine_s_token_is_good_for_one_node(server: Server) -> None:
    await join(server, machine="c" * 32)
    server.nodes.at["http://10.0.0.8:9000"] = Introduction(NodeKind.NATIVE, OTHER)
    answer = await join(server, id=OTHER, url="http://10.0.0.8:9000", machine="c" * 32)
    assert (answer.status_code, answer.json()["code"]) == (409, "machine_taken")
    # Its own node may say so as often as it likes.
    assert (await join(server, machine="c" * 32)).status_code == 200


async def test_why_the_node_of_a_machine_does_not_serve_is_kept_for_scaling(server: Server) -> None:
    token = "c" * 32
    await join(server, services=["exmaple"], machine=token)
    word = server.registry.word_of(token, "example")
    assert word.startswith("its node was not let in: services: exmaple are not known here")
    await join(server, machine=token)
    assert server.registry.word_of(token, "example") == ""
    assert server.registry.word_of(token, "docking") == "its node joined for example, and not for docking"
    assert server.registry.word_of("d" * 32, "example") == ""


async def test_what_scaling_remarks_on_a_machine_is_shown_of_its_node(server: Server) -> None:
    token = "c" * 32
    await join(server, machine=token)
    server.views[:] = [replace(view(joined=True), machine=token, reason="its clock is 9 s ahead")]
    server.registry.remark(token, "its node has 1 slot, and was ordered with 4")
    (found,) = (await server.client.get("/v1/nodes")).json()["items"]
    assert found["message"] == "its clock is 9 s ahead; its node has 1 slot, and was ordered with 4"
    await server.client.delete(f"/v1/nodes/{ID}", params={"force": "true"})
    assert server.registry.remark_on(token) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "x"),
        ("id", None),
        ("url", "ftp://h:1"),
        ("url", "http://user:secret@h:1"),
        ("url", "http://h:1/?q"),
        ("url", "http://h:99999"),
        ("url", 7),
        ("services", []),
        ("services", "example"),
        ("services", [1]),
        ("slots", 0),
        ("slots", True),
        ("labels", {"a b": "c"}),
        ("labels", {"a": 1}),
        ("labels", ["gpu"]),
        ("machine", "x"),
    ],
)
async def test_a_wrong_field_is_named(server: Server, field: str, value: Any) -> None:
    answer = await join(server, **{field: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_field"), answer.text
    assert answer.json()["detail"].startswith(field)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_unknown_fields_services_and_bodies_are_refused(server: Server) -> None:
    assert (await join(server, lables={})).json()["code"] == "unknown_field"
    unknown = await join(server, services=["blender"])
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_service")
    assert "example" in unknown.json()["detail"]
    assert (await server.client.post("/v1/nodes", content=b"{")).status_code == 400
    assert (await server.client.post("/v1/nodes", content=b"[]")).status_code == 400
    assert (await server.client.post("/v1/nodes", content=b" " * (1 << 17))).status_code == 413


async def test_a_node_leaves_once(server: Server) -> None:
    await join(server)
    assert (await server.client.delete(f"/v1/nodes/{ID}")).status_code == 204
    assert server.registry.addresses() == () and not await server.ledger.nodes()
    assert (await server.client.delete(f"/v1/nodes/{ID}")).status_code == 404


async def test_a_node_where_jobs_run_leaves_only_by_force(server: Server) -> None:
    await join(server)
    busy = replace(view(ID, "example"), joined=True, held=2, contact=NodeState.READY)
    server.views[:] = [busy]
    answer = await server.client.delete(f"/v1/nodes/{ID}")
    assert (answer.status_code, answer.json()["code"]) == (409, "busy_node")
    assert "drain it first: 2 jobs run there" in answer.json()["detail"]
    assert server.registry.addresses()
    assert (await server.client.delete(f"/v1/nodes/{ID}?force=maybe")).status_code == 400
    assert (await server.client.delete(f"/v1/nodes/{ID}?force=true")).status_code == 204
    await join(server)
    server.views[:] = [replace(busy, contact=NodeState.LOST)]
    assert (await server.client.delete(f"/v1/nodes/{ID}")).status_code == 204


async def test_a_node_of_the_settings_cannot_be_made_to_leave(server: Server) -> None:
    server.views[:] = [view(ID, "example")]
    answer = await server.client.delete(f"/v1/nodes/{ID}")
    assert (answer.status_code, answer.json()["code"]) == (409, "static_node")


async def test_a_drain_is_kept_with_its_reason_until_it_is_lifted(server: Server) -> None:
    server.views[:] = [view(ID, "example")]
    answer = await server.client.post(f"/v1/nodes/{ID}/drain", json={"reason": "new kernel"})
    assert (answer.status_code, answer.json()["draining"]) == (200, "new kernel")
    assert await server.ledger.drains() == {ID: "new kernel"}
    answer = await server.client.post(f"/v1/nodes/{ID}/undrain")
    assert (answer.status_code, answer.json()["draining"]) == (200, None)
    assert await server.ledger.drains() == {}


async def test_a_drain_needs_no_body_and_a_node_that_is_known(server: Server) -> None:
    server.views[:] = [view("http://old:9000/submit", "example")]
    name = "http%3A%2F%2Fold%3A9000%2Fsubmit"
    assert (await server.client.post(f"/v1/nodes/{name}/drain")).status_code == 200
    assert (await server.client.get(f"/v1/nodes/{name}")).json()["source"] == "static"
    for path, method in (("", "GET"), ("", "DELETE"), ("/drain", "POST"), ("/undrain", "POST")):
        answer = await server.client.request(method, f"/v1/nodes/{OTHER}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_node"), (path, method)
    assert await server.ledger.drains() == {"http://old:9000/submit": "ordered by an operator"}


@pytest.mark.parametrize("reason", ["", 7, "two\nlines", "x" * 501, "scaling: idle"])
async def test_a_reason_is_a_line_of_text_of_an_operator(server: Server, reason: Any) -> None:
    server.views[:] = [view(ID, "example")]
    answer = await server.client.post(f"/v1/nodes/{ID}/drain", json={"reason": reason})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_field")
    assert not await server.ledger.drains()


async def test_a_node_is_found_and_ordered_by_its_name(server: Server) -> None:
    server.views.append(replace(view(ID, "example"), name="gpu-3"))
    server.registry.names.claim(ID, "gpu-3", URL)
    told = (await server.client.get("/v1/nodes/gpu-3")).json()
    assert (told["id"], told["name"]) == (ID, "gpu-3")
    assert (await server.client.post("/v1/nodes/gpu-3/drain")).status_code == 200
    assert list(await server.ledger.drains()) == [ID]
    assert (await server.client.post("/v1/nodes/gpu-3/undrain")).status_code == 200
    assert await server.ledger.drains() == {}
    assert (await server.client.delete("/v1/nodes/gpu-3")).json()["code"] == "static_node"
    assert (await server.client.get("/v1/nodes/gpu-4")).status_code == 404


async def test_a_node_without_a_name_is_called_by_its_id(server: Server) -> None:
    server.views.append(view(ID, "example"))
    assert (await server.client.get(f"/v1/nodes/{ID}")).json()["name"] == ID
