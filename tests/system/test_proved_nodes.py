"""A node of ours and our client of nodes, which prove who they are to each other; and whoever else comes."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from support.data.node_jobs import new_dispatch, new_storage
from support.peers.peer import Peer, Request, serving
from support.processes.nodes_in_process import node_in_process

from actors.domain.job import Attempt, End
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, PayloadView
from actors.domain.status import Status
from actors.ports.ledger import LedgerError
from actors.ports.nodes import CollectResult, LookupResult, NodeEvent, PayloadChanged, Picture, SubmitResult
from actors.wire.link.link import Link
from actors.wire.link.proof import SECRET, join_key, new_nonce
from actors.wire.link.session import MAX_FRAME, Hello, Lane, Message, Session
from actors.wire.link.session import Role as Side
from actors.wire.link.websocket import accept, take_over
from actors.wire.protocol.attempts import PROTOCOL, heartbeat_to_json, view_to_json
from orchestrator.access.node_secrets import NodeSecret, NodeSecrets
from orchestrator.access.roles import Role
from orchestrator.access.tokens import TokenRecord, hash_of, make_secret
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.native.link import EACH
from orchestrator.nodes.remote_stream import NodeUnreachable
from orchestrator.storage.storage import DiskStorage

OWNER, OTHER = "0" * 32, "9" * 32
BIG = bytes(EACH + 1)
DONE = End(Status.COMPLETED, "", exit_code=0)


@dataclass
class Book:
    """Where an orchestrator keeps its secrets; `failing` is what it says instead."""

    kept: dict[str, NodeSecret] = field(default_factory=dict)
    failing: str = ""

    async def put_node_secret(self, secret: NodeSecret) -> None:
        await trio.lowlevel.checkpoint()
        if self.failing:
            raise LedgerError(self.failing)
        self.kept[secret.node_id] = secret

    async def remove_node_secret(self, node_id: str, entry: object = None) -> bool:
        await trio.lowlevel.checkpoint()
        return self.kept.pop(node_id, None) is not None


class Orchestrator:
    """The client, and what it hears: `heard` are the events, `why` the reasons for which it stopped."""

    def __init__(self, client: NodeClient, storage: DiskStorage, secrets: NodeSecrets, url: str) -> None:
        self.client = client
        self.storage = storage
        self.secrets = secrets
        self.url = url
        self.ref = NodeRef("", url)
        self._put, self.heard = trio.open_memory_channel[NodeEvent](1000)

    def tell(self, ref: NodeRef, event: NodeEvent) -> None:
        self.ref = ref
        self._put.send_nowait(event)

    async def watch(self) -> str:
        return await self.client.watch(NodeAddress(self.url), self.tell)

    async def keep_watching(self) -> None:
        while True:
            await self.watch()
            await trio.sleep(0.01)

    async def picture(self) -> Picture:
        async for event in self.heard:
            if isinstance(event, Picture):
                return event
        raise AssertionError

    async def ended(self, key: str) -> PayloadChanged:
        async for event in self.heard:
            if isinstance(event, PayloadChanged) and event.view.key == key and event.view.end is not None:
                return event
        raise AssertionError


@asynccontextmanager
async def orchestrator(
    path: Path, url: str, book: Book, owner: str = OWNER, named: bool = True
) -> AsyncIterator[Orchestrator]:
    storage = await new_storage(path / f"storage-{secrets.token_hex(4)}")
    known = NodeSecrets(book.kept.values(), book, [url] if named else [])
    client = NodeClient(owner, storage, path / f"spool-{secrets.token_hex(4)}", secrets=known)
    found = Orchestrator(client, storage, known, url)
    yield found
    await client.aclose()


@asynccontextmanager
async def watching(found: Orchestrator) -> AsyncIterator[Picture]:
    """While it is followed; from its first picture on."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.keep_watching)
        yield await found.picture()
        nursery.cancel_scope.cancel()


def node_id_of(book: Book) -> str:
    (only,) = book.kept
    return only


async def test_both_agree_at_the_first_link_and_prove_it_at_each_later_one(tmp_path: Path) -> None:
    book = Book()
    async with node_in_process(tmp_path / "node") as node:
        async with orchestrator(tmp_path, node.url, book) as first, watching(first):
            job = await new_dispatch(first.storage, {"run.sh": b"true\n"})
            (answer,) = await first.client.submit(first.ref, [job])
            assert answer.result is SubmitResult.HAS
        made = book.kept[first.ref.node_id]
        assert len(made.secret) == SECRET
        # The orchestrator is started anew.
        async with orchestrator(tmp_path, node.url, book) as second, watching(second) as picture:
            assert list(picture.payloads) == [job.attempt.key]
    # So is the node.
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, book) as third,
        watching(third),
    ):
        assert book.kept == {third.ref.node_id: made}


async def test_requests_beside_the_link_are_proved_and_count_once(tmp_path: Path) -> None:
    book = Book()
    sent: list[tuple[str, dict[str, str]]] = []
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, book) as mine,
        watching(mine),
    ):
        headers = mine.client._links.headers

        def noting(ref: NodeRef, method: str, target: str) -> dict[str, str]:
            found = headers(ref, method, target)
            sent.append((f"{method} {target}", found))
            return found

        mine.client._links.headers = noting  # type: ignore[method-assign]
        job = await new_dispatch(mine.storage, {"run.sh": b"true\n", "in": BIG})
        (answer,) = await mine.client.submit(mine.ref, [job])
        assert answer.result is SubmitResult.HAS
        run = await node.executor.run_of(job.attempt.key)
        run.print("out\n")
        async with mine.client.open_log(mine.ref, job.attempt, "stdout") as opened:
            assert b"".join([piece async for piece in opened.body]) == b"out\n"
        run.finish()
        await mine.ended(job.attempt.key)
        assert [entry.path for entry in await mine.client.list_files(mine.ref, job.attempt)]
        (collected,) = await mine.client.collect(mine.ref, [job])
        assert collected.result is CollectResult.STORED, collected

        assert {line.partition("?")[0].split("/")[2] for line, _ in sent} >= {"attempts", "collect"}
        for line, before in sent:
            method, _, target = line.partition(" ")
            replayed = await node.client.request(method, target, headers=before)
            assert (replayed.status_code, replayed.json()["code"]) == (403, "not_proved"), replayed.text
        for method, target in (
            ("GET", "/v1/events"),
            ("POST", "/v1/attempts"),
            ("POST", "/v1/cancel"),
            ("GET", f"/v1/attempts/{job.attempt.key}"),
            ("GET", f"/v1/attempts/{job.attempt.key}/results"),
            ("GET", f"/v1/attempts/{job.attempt.key}/logs"),
        ):
            unproved = await node.client.request(method, target)
            assert (unproved.status_code, unproved.json()["code"]) == (403, "paired"), target
            assert "--pair-anew" in unproved.text
        known = (await node.client.get("/v1/info")).json()
        assert set(known) == {"protocol", "link", "node_id", "machine_boot"}
        # Nobody speaks for another orchestrator.
        target = f"/v1/events?owner={OTHER}"
        other = await node.client.get(target, headers=headers(mine.ref, "GET", target))
        assert (other.status_code, other.json()["code"]) == (403, "other_owner")


async def test_a_node_that_is_paired_refuses_another_orchestrator_until_it_pairs_anew(tmp_path: Path) -> None:
    one, two = Book(), Book()
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, one) as mine,
        watching(mine),
    ):
        async with orchestrator(tmp_path, node.url, two, OTHER) as other:
            why = await other.watch()
            assert "paired with the orchestrator 00000000" in why and "--pair-anew" in why
        async with orchestrator(tmp_path, node.url, two) as thief:  # in the name of the first
            why = await thief.watch()
            assert "--pair-anew" in why
        assert not two.kept
        # The link of the first has not ended by any of this.
        (look,) = await mine.client.lookup(mine.ref, [Attempt("c" * 32, 1, 1, mine.ref.node_id)])
        assert look.result is LookupResult.GONE
    async with node_in_process(tmp_path / "node", pair_anew=True) as node:
        async with orchestrator(tmp_path, node.url, two, OTHER) as other, watching(other):
            assert list(two.kept) == list(one.kept)
        async with orchestrator(tmp_path, node.url, one) as mine:
            why = await mine.watch()
            assert f"DELETE /v1/nodes/{node_id_of(one)}/secret" in why


async def test_a_secret_that_is_lost_on_either_side_says_what_to_do(tmp_path: Path) -> None:
    book = Book()
    async with node_in_process(tmp_path / "node") as node:
        async with orchestrator(tmp_path, node.url, book) as mine, watching(mine):
            pass
        async with orchestrator(tmp_path, node.url, Book()) as forgetful:
            assert "the orchestrator, which has none with it" in (await forgetful.watch()).replace(
                "this", "the"
            )
    wrong = Book({key: NodeSecret(key, bytes(SECRET), 0.0) for key in book.kept})
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, wrong) as mistaken,
    ):
        assert "its proof is wrong" in await mistaken.watch()
    async with (
        node_in_process(tmp_path / "node", pair_anew=True) as node,
        orchestrator(tmp_path, node.url, book) as mine,
    ):
        assert f"DELETE /v1/nodes/{node_id_of(book)}/secret" in await mine.watch()
        await mine.secrets.forget(node_id_of(book))
        async with watching(mine):
            assert book.kept


@pytest.mark.parametrize("node_restarts", [True, False])
async def test_agreeing_that_is_cut_short_between_both_sides_goes_on(
    tmp_path: Path, node_restarts: bool
) -> None:
    """The node has kept the secret; the orchestrator has died before it could, or finds that it cannot."""
    book = Book(failing="the disk is full")
    async with node_in_process(tmp_path / "node") as node:
        async with orchestrator(tmp_path, node.url, book) as failing:
            assert "the disk is full" in await failing.watch()
        assert list((tmp_path / "node" / "orchestrators").iterdir())
        book.failing = ""
        if not node_restarts:
            async with orchestrator(tmp_path, node.url, book) as mine, watching(mine):
                assert book.kept
    if node_restarts:
        async with (
            node_in_process(tmp_path / "node") as node,
            orchestrator(tmp_path, node.url, book) as mine,
            watching(mine),
        ):
            assert book.kept


async def test_an_orchestrator_that_has_kept_it_and_dies_before_it_says_so_goes_on(tmp_path: Path) -> None:
    book = Book()
    async with node_in_process(tmp_path / "node") as node:
        async with orchestrator(tmp_path, node.url, book) as mine:
            put = book.put_node_secret
            dies = trio.CancelScope()

            async def put_and_die(secret: NodeSecret) -> None:
                await put(secret)
                dies.cancel()
                # This is shielded: until its link has ended, over which it would say so.
                await trio.testing.wait_all_tasks_blocked()

            book.put_node_secret = put_and_die  # type: ignore[method-assign]
            with dies:
                await mine.watch()
        assert b'"confirmed": false' in next((tmp_path / "node" / "orchestrators").iterdir()).read_bytes()
        async with orchestrator(tmp_path, node.url, book) as mine, watching(mine):
            assert b'"confirmed": true' in next((tmp_path / "node" / "orchestrators").iterdir()).read_bytes()


# ---------------------------------------------------------------------- by a token


def token() -> tuple[str, TokenRecord]:
    made = make_secret()
    return made, TokenRecord("t", hash_of(made), Role.NODE, "", 0.0)


def with_token(text: str) -> dict[str, Any]:
    return {"token": text, "join": "http://127.0.0.1:9", "join_services": ("example",)}


async def test_a_node_with_a_token_pairs_with_whom_it_has_joined_by_it(tmp_path: Path) -> None:
    text, record = token()
    put, joined = trio.open_memory_channel[dict[str, Any]](100)

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        if request.body:
            put.send_nowait({"head": request.headers, **json.loads(request.body)})
        await stream.send_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")

    async with serving(Peer(answer)) as portal:
        settings = {**with_token(text), "join": portal.url}
        async with node_in_process(tmp_path / "node", **settings) as node:
            said = await joined.receive()
            assert said["head"]["authorization"] == f"Bearer {text}"
            stolen, other = Book(), Book()
            # Nobody without the token, nor a thief who has not heard the node join.
            async with orchestrator(tmp_path, node.url, stolen, OTHER) as thief:
                assert "by its token alone" in await thief.watch()
                thief.secrets.invite(said["id"], record, "f" * 32)
                assert "proof is wrong" in (await thief.watch()) or not stolen.kept
            assert not stolen.kept and not (tmp_path / "node" / "orchestrators").exists()
            unproved = await node.client.get("/v1/events")
            assert (unproved.status_code, unproved.json()["code"]) == (403, "paired")
            async with orchestrator(tmp_path, node.url, other, named=False) as mine:
                assert "once it joins again" in await mine.watch()
                mine.secrets.invite(said["id"], record, said["nonce"])
                async with watching(mine):
                    assert other.kept[said["id"]].terms.token == "t"


# ---------------------------------------------------------------------- hostile nodes


async def test_whoever_answers_at_the_address_of_a_node_is_given_nothing(tmp_path: Path) -> None:
    """It says the node's id, takes no links, and would be followed by its events."""
    asked: list[str] = []
    book = Book()
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, book) as mine,
        watching(mine),
    ):
        assert book.kept

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        asked.append(f"{request.method} {request.path}")
        if request.path == "/v1/info":
            said = f'{{"protocol": {PROTOCOL}, "node_id": "{node_id_of(book)}", "machine_boot": "b"}}'
            await stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\n\r\n{said}".encode())
        else:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with serving(Peer(answer)) as liar, orchestrator(tmp_path, liar.url, book) as mine:
        assert "is to prove" in await mine.watch()
        ref = NodeRef(node_id_of(book), liar.url)
        job = await new_dispatch(mine.storage, {"run.sh": BIG})
        (answered,) = await mine.client.submit(ref, [job])
        assert answered.result is SubmitResult.NOT_SENT
        (collected,) = await mine.client.collect(ref, [job])
        assert collected.result is CollectResult.FAILED
        (look,) = await mine.client.lookup(ref, [job.attempt])
        assert look.result is LookupResult.UNKNOWN
        with pytest.raises(NodeUnreachable):
            async with mine.client.open_results(ref, job.attempt):
                pass
    assert set(asked) == {"GET /v1/info"}


async def test_a_node_that_sends_results_without_end_ends_its_link_alone(tmp_path: Path) -> None:
    """It is paired, and says ends of attempts that nobody has given it."""
    book = Book()
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, book) as mine,
        watching(mine),
    ):
        assert book.kept
    sent = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal sent
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        if b"GET /v1/info" in head:
            said = (
                f'{{"protocol": {PROTOCOL}, "link": 1, "node_id": "{node_id_of(book)}", "machine_boot": "b"}}'
            )
            await stream.send_all(
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n{said}".encode()
            )
            return
        key = re.search(rb"(?i)sec-websocket-key: ([^\r]+)", head)
        assert key is not None
        await stream.send_all(accept(key[1].decode()))
        hello = Hello(Side.NODE, node_id_of(book), boot="b", incarnation="i", nonce=new_nonce())
        link = Link(take_over(stream, b"", MAX_FRAME), Session(hello, dict.fromkeys(Lane, 1 << 20)))
        secret = book.kept[node_id_of(book)].secret

        def hear(message: Message) -> None:
            nonlocal sent
            if message.kind == "hello":
                link.session.expect(secret)
                link.prove(secret)
            elif message.kind == "proof":
                beat = heartbeat_to_json(Heartbeat(), {}, 0.0)
                picture = {"incarnation": "i", "sequence": 0, "payloads": [], "heartbeat": beat}
                link.tell("picture", picture, Lane.ORDERS)
                for number in range(40):
                    end = view_to_json(PayloadView(f"{number:032x}", Status.COMPLETED, DONE))
                    body = {"payloads": [end], "sizes": [1 << 19]}
                    link.tell("ended", body, Lane.RESULTS, bytes(1 << 19))
                    sent += 1

        await link.run(hear)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with orchestrator(tmp_path, url, book) as mine:
            assert "more results unasked" in await mine.watch()
        nursery.cancel_scope.cancel()
    assert sent == 40


async def test_a_node_with_a_token_for_pairing_pairs_with_who_has_it_alone(tmp_path: Path) -> None:
    text = make_secret()
    async with node_in_process(tmp_path / "node", pair_token=text) as node:
        stolen, book = Book(), Book()
        async with orchestrator(tmp_path, node.url, stolen, OTHER) as quicker:
            assert "by its token alone" in await quicker.watch()
        unproved = await node.client.get("/v1/events")
        assert (unproved.status_code, unproved.json()["code"]) == (403, "paired")
        assert not stolen.kept
        async with orchestrator(tmp_path, node.url, book) as mine:
            mine.secrets._named_key = join_key(hash_of(text), "")
            async with watching(mine):
                assert book.kept


async def test_a_secret_that_is_forgotten_ends_the_link_that_was_proved_by_it(tmp_path: Path) -> None:
    book = Book()
    async with (
        node_in_process(tmp_path / "node") as node,
        orchestrator(tmp_path, node.url, book) as mine,
        trio.open_nursery() as nursery,
    ):
        ended = trio.Event()

        async def watch() -> None:
            assert "was forgotten" in await mine.watch()
            ended.set()

        nursery.start_soon(watch)
        await mine.picture()
        await mine.secrets.forget(node_id_of(book))
        await ended.wait()
        assert "--pair-anew" in await mine.watch()
