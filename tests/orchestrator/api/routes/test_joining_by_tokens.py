"""Who may join as which node: by a token, by the secret of both, by neither."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes.api_server import Server, api_server

from actors.wire.link.proof import join_key, prove_join
from orchestrator.access.node_proofs import CHALLENGE
from orchestrator.access.roles import Role
from orchestrator.access.tokens import CLAIMED_FOR, TokenRecord, hash_of, make_secret
from orchestrator.nodes.native.events import Introduction, NodeKind

ID, OTHER = "a" * 32, "b" * 32
URL, ELSEWHERE = "http://10.0.0.7:9000", "http://10.0.0.8:9000"
NONCE = "c" * 32


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False, services=("example", "other")) as found:
        found.nodes.at[URL] = Introduction(NodeKind.NATIVE, ID)
        found.nodes.at[ELSEWHERE] = Introduction(NodeKind.NATIVE, OTHER)
        yield found


async def token(server: Server, role: Role = Role.NODE, **more: Any) -> str:
    text = make_secret()
    record = TokenRecord(secrets.token_hex(6), hash_of(text), role, "", server.clock.now(), **more)
    await server.ledger.put_token(record)
    server.api.tokens.add(record)
    return text


def body(**changes: Any) -> bytes:
    whole = {"id": ID, "url": URL, "services": ["example"], "slots": 2, "nonce": NONCE}
    return json.dumps({key: value for key, value in {**whole, **changes}.items() if value != ...}).encode()


async def by_token(server: Server, text: str, **changes: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {text}"}
    return await server.client.post("/v1/nodes", content=body(**changes), headers=headers)


class Proving:
    """A node that has a secret with the server."""

    def __init__(self, server: Server, secret: bytes, node_id: str = ID) -> None:
        self.server = server
        self.secret = secret
        self.node_id = node_id
        self.challenge = ""
        self.said = ""

    async def ask(self, method: str, path: str, content: bytes = b"", *, tampered: bytes = b"") -> Any:
        """The answer, after a challenge if there was none yet."""
        for _ in range(2):
            digest = hashlib.sha256(content).hexdigest()
            proof = prove_join(self.secret, method, path, digest, self.challenge)
            self.said = f"Node {self.node_id}:{self.challenge}:{digest}:{proof}"
            headers = {"Authorization": self.said}
            answer = await self.server.client.request(
                method, path, content=tampered or content, headers=headers
            )
            self.challenge = answer.headers.get(CHALLENGE, "")
            if answer.status_code != 401 or answer.json()["code"] != "new_challenge":
                break
        return answer


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return str(answer.json()["detail"])


async def paired(server: Server, text: str, **changes: Any) -> Proving:
    answer = await by_token(server, text, **changes)
    assert answer.status_code in (200, 201), answer.text
    node_id = changes.get("id", ID)
    secret = secrets.token_bytes(32)
    await server.api.node_secrets.keep(node_id, secret, 0.0)
    return Proving(server, secret, node_id)


async def test_a_node_joins_by_a_token_and_by_its_secret_ever_after(server: Server) -> None:
    assert (await server.client.post("/v1/nodes", content=body())).status_code == 401
    text = await token(server)
    assert (await by_token(server, text)).status_code == 201
    assert server.api.node_secrets.key_for(ID, URL) == join_key(hash_of(text), NONCE)
    node = await paired(server, text)
    # The token is revoked: it was for joining.
    (record,) = list(server.api.tokens)
    server.api.tokens.remove(record.id)
    assert (await by_token(server, text)).status_code == 401
    for _ in range(3):
        assert (await node.ask("POST", "/v1/nodes", body(nonce=...))).status_code == 200
    assert (await node.ask("GET", f"/v1/nodes/{ID}")).status_code == 404  # the pool has not seen it
    assert (await node.ask("DELETE", f"/v1/nodes/{ID}")).status_code == 204
    # What it has outlasts its leaving, and a restart of the server.
    (kept,) = await server.ledger.node_secrets()
    assert (kept.node_id, kept.secret, kept.terms.token) == (ID, node.secret, record.id)


async def test_a_challenge_counts_once_for_one_request(server: Server) -> None:
    node = await paired(server, await token(server))
    assert (await node.ask("POST", "/v1/nodes", body(nonce=...))).status_code == 200
    replayed = {"Authorization": node.said}
    again = await server.client.post("/v1/nodes", content=body(nonce=...), headers=replayed)
    refused(again, 401, "new_challenge")
    refused(await node.ask("POST", "/v1/nodes", body(), tampered=body(slots=9)), 401, "wrong_proof")
    for wrong in (
        Proving(server, bytes(32)),
        Proving(server, node.secret, OTHER),
    ):
        answer = await wrong.ask("POST", "/v1/nodes", body(nonce=...))
        assert answer.status_code == 401, answer.text
    for said in ("Node", "Node x", "Node a:b:c:d", f"Node {ID}:1e9999.a.b:c:d", "Node " + "x:" * 600):
        answer = await server.client.post("/v1/nodes", content=body(), headers={"Authorization": said})
        assert answer.status_code == 401, said
    # A challenge of another server process is none here.
    node.challenge = f"9999999999.000.{'0' * 32}.{'0' * 64}"
    assert (await node.ask("POST", "/v1/nodes", body(nonce=...))).status_code == 200


async def test_an_id_is_bound_to_its_secret(server: Server) -> None:
    text = await token(server)
    node = await paired(server, text)
    why = refused(await by_token(server, text), 409, "secret_not_proved")
    assert f"DELETE /v1/nodes/{ID}/secret" in why
    server.registry.names.claim(ID, "gpu-3", URL)
    why = refused(await by_token(server, text), 409, "secret_not_proved")
    assert "node gpu-3 has a secret" in why and "DELETE /v1/nodes/gpu-3/secret" in why
    operator = await token(server, Role.OPERATOR)
    refused(await by_token(server, operator), 409, "secret_not_proved")
    why = refused(await node.ask("POST", "/v1/nodes", body(id=OTHER, url=ELSEWHERE)), 403, "other_node")
    assert why.endswith("is node gpu-3")
    refused(await node.ask("DELETE", f"/v1/nodes/{OTHER}"), 404, "unknown_node")
    refused(await node.ask("GET", f"/v1/nodes/{OTHER}"), 404, "unknown_node")
    refused(await node.ask("DELETE", f"/v1/nodes/{ID}/secret"), 403, "wrong_role")
    # A token alone is nobody's: it neither looks nor makes anybody leave.
    headers = {"Authorization": f"Bearer {text}"}
    refused(await server.client.delete(f"/v1/nodes/{ID}?force=1", headers=headers), 404, "unknown_node")
    headers = {"Authorization": f"Bearer {operator}"}
    forget = await server.client.delete(f"/v1/nodes/{ID}/secret", headers=headers)
    assert forget.status_code == 204
    refused(await server.client.delete(f"/v1/nodes/{ID}/secret", headers=headers), 404, "unknown_secret")
    assert not await server.ledger.node_secrets()
    assert (await by_token(server, text)).status_code == 200
    refused(await node.ask("POST", "/v1/nodes", body()), 401, "unknown_node")


async def test_what_a_token_allows_holds_for_each_join(server: Server) -> None:
    text = await token(server, services=("example",), max_slots=4)
    refused(await by_token(server, text, services=["example", "other"]), 403, "foreign_service")
    assert "--slots 4" in refused(await by_token(server, text, slots=5), 403, "too_many_slots")
    refused(await by_token(server, text, slots=None), 403, "too_many_slots")
    node = await paired(server, text, slots=4)
    for changes in ({"slots": 5}, {"slots": None}, {"services": ["other"]}):
        answer = await node.ask("POST", "/v1/nodes", body(nonce=..., **changes))
        assert answer.status_code == 403, answer.text
    elsewhere = await token(server, sources=("10.0.0.0/8", "fd00::/8"))
    why = refused(await by_token(server, elsewhere, id=OTHER, url=ELSEWHERE), 403, "wrong_address")
    assert "127.0.0.1" in why and "10.0.0.0/8" in why
    here = await token(server, sources=("10.0.0.0/8", "127.0.0.0/8"))
    assert (await by_token(server, here, id=OTHER, url=ELSEWHERE)).status_code == 201


async def test_who_is_not_let_in_stands_in_the_audit_and_the_log_once_a_minute(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "orchestrator.nodes")
    text = await token(server, services=("example",))
    for _ in range(3):
        refused(await by_token(server, text, services=["other"]), 403, "foreign_service")
        refused(await by_token(server, text, url="http://10.0.0.9:9000"), 422, "unreachable_node")
    told = [record.getMessage() for record in caplog.records if record.name == "orchestrator.nodes"]
    # What comes after the first lines of the audit counts as new once more before the minute is over.
    assert 2 <= len(told) <= 4 and len({*told}) == 2
    assert {line.partition(": ")[0] for line in told} == {f"node {ID} was not let in, from 127.0.0.1"}
    assert "http://10.0.0.9:9000" in told[1]
    assert server.api.refusals.counts == {"foreign_service": 3, "unreachable_node": 3}


async def test_a_one_time_token_is_for_one_node_which_may_try_again(server: Server) -> None:
    text = await token(server, once=True)
    assert (await by_token(server, text)).status_code == 201
    refused(await by_token(server, text, id=OTHER, url=ELSEWHERE), 403, "token_used")
    server.clock.time += CLAIMED_FOR - 1
    assert (await by_token(server, text)).status_code == 200
    server.clock.time += 2
    refused(await by_token(server, text), 403, "token_used")
    (kept,) = await server.ledger.tokens()
    assert kept.claimed_by == ID


async def test_an_address_that_is_none_uses_up_no_token(server: Server) -> None:
    text = await token(server, once=True)
    answer = await by_token(server, text, url="http://10.0.0.9:9000")
    assert answer.status_code == 422
    assert (await by_token(server, text, id=OTHER, url=ELSEWHERE)).status_code == 201


async def test_who_joins_by_a_token_says_a_nonce(server: Server) -> None:
    text = await token(server)
    for nonce in (..., None, "", "x" * 32, 7):
        refused(await by_token(server, text, nonce=nonce), 422, "bad_field")
    # An operator lets a node in that need not have the token.
    assert (await by_token(server, await token(server, Role.OPERATOR), nonce=...)).status_code == 201
    assert server.api.node_secrets.key_for(ID, URL) == ""


async def test_what_bounds_nodes_is_of_their_tokens(server: Server) -> None:
    headers = {"Authorization": f"Bearer {await token(server, Role.OPERATOR)}"}

    async def make(**order: Any) -> httpx.Response:
        return await server.client.post("/v1/tokens", json=order, headers=headers)

    made = await make(role="node", once=True, max_slots=3, sources=["10.1.2.3/8", "::1"])
    assert made.status_code == 201, made.text
    bounds = {"once": True, "max_slots": 3, "sources": ["10.0.0.0/8", "::1/128"]}
    assert {key: made.json()[key] for key in bounds} == bounds
    kept = {one.id: one for one in await server.ledger.tokens()}[made.json()["id"]]
    assert (kept.once, kept.max_slots, kept.sources) == (True, 3, ("10.0.0.0/8", "::1/128"))
    for wrong in (
        {"role": "portal", "once": True},
        {"role": "portal", "max_slots": 3},
        {"role": "node", "once": 1},
        {"role": "node", "max_slots": 0},
        {"role": "node", "sources": ["example.org"]},
        {"role": "node", "sources": "10.0.0.0/8"},
        {"role": "node", "sources": [7]},
    ):
        refused(await make(**wrong), 422, "bad_field")


async def test_what_knows_only_the_contract_is_named_in_the_settings(server: Server) -> None:
    server.nodes.at[URL] = Introduction(NodeKind.CONTRACT_ONLY)
    answer = await by_token(server, await token(server))
    assert "name it in the settings" in refused(answer, 422, "no_node")


async def test_what_a_machine_had_is_forgotten_with_it(server: Server) -> None:
    text = await token(server)
    await paired(server, text, machine="d" * 32)
    await paired(server, text, id=OTHER, url=ELSEWHERE)
    known = server.api.node_secrets
    await known.forget_machines({"d" * 32})
    assert known.find(ID) is not None
    await known.forget_machines(set())
    assert (known.find(ID), len(await server.ledger.node_secrets())) == (None, 1)
    assert known.find(OTHER) is not None
