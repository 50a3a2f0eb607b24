"""The routes under `/v1/nodes`: nodes as the scheduler sees them, joining, leaving, drains."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import replace
from typing import Annotated, Any, Final

import trio
from quart import Blueprint, Response
from werkzeug.routing import PathConverter

from actors.config.kinds import Wrong, base_url
from actors.domain.ids import is_key
from actors.domain.labels import is_label_name, is_label_value
from actors.domain.node import JoinedNode, NodeState, NodeView
from actors.domain.scaling import DRAINED_BY_SCALING
from actors.wire.http.app import Refusal, json_response, query
from actors.wire.http.plain_routes import Admit, Head
from actors.wire.http.upgrades import ReversedRoute
from actors.wire.link.dialled import NODE_HEADER, PATH, REVERSED
from actors.wire.link.proof import is_nonce
from orchestrator.access.audit import entry_of
from orchestrator.access.node_proofs import CHALLENGE
from orchestrator.access.node_secrets import BY_TOKEN, Terms
from orchestrator.access.roles import Role, asked_from, asking
from orchestrator.access.tokens import TokenRecord
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params
from orchestrator.api.http.json_body import parse_reason, read_json_object, refuse_field, refuse_unknown
from orchestrator.api.openapi.describe import ORDER, UNAVAILABLE, describe, in_query, page_of
from orchestrator.api.serializers import render_node
from orchestrator.contract import bodies
from orchestrator.contract.bodies import Also
from orchestrator.nodes.native.events import NodeKind
from orchestrator.nodes.registry import MachineTaken

log: Final = logging.getLogger("orchestrator.nodes")

MOST_LABELS: Final = 64
MOST_URL: Final = 1000

_FIELDS: Final = ("id", "url", "services", "slots", "labels", "machine", "nonce")

_UNKNOWN: Final = UNAVAILABLE | {404: "Unknown node"}
_BAD_BODY: Final = {400: "No JSON", 413: "Too large", 422: "A field is unknown or wrong"}


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("nodes", __name__, url_prefix="/v1")
    page.record_once(lambda state: state.app.url_map.converters.update(node_id=_NodeId))

    @page.get("/nodes")
    @describe(
        "The nodes as the scheduler sees them",
        answers={200: ("All", page_of(bodies.Node))},
        errors=UNAVAILABLE,
    )
    async def nodes() -> Response:
        query()
        now = trio.current_time()
        items = [_render(api, view, now) for view in await api.pool()]
        return json_response({"items": items, "next": None})

    @page.get("/nodes/<node_id:node_id>")
    @describe(
        "One node, by its id or its name; so are nodes named everywhere",
        answers={200: ("The node", bodies.Node)},
        errors=_UNKNOWN,
    )
    async def node(node_id: str) -> Response:
        query()
        node_id = _id_of(api, node_id)
        _refuse_other_node(node_id)
        return json_response(_render(api, await _find(api, node_id), trio.current_time()))

    @page.post("/nodes")
    @describe(
        "A node joins, or says again who it is: the same request may be repeated for ever",
        answers={200: ("It is known", bodies.JoinedNodeBody), 201: ("It has joined", bodies.JoinedNodeBody)},
        errors={
            **_BAD_BODY,
            403: "The token, or who has proved to be another node, may not join so",
            409: "Another node answers at the URL, the machine's token is another node's, or the node does "
            "not prove that it has the secret of both",
            422: "A field is wrong, no service of it is known, or the node cannot be asked",
            503: "The ledger cannot be written now, or nobody can be asked",
        },
        body=bodies.JoiningNodeBody,
        body_required=True,
    )
    async def join_node() -> Response:
        query()
        body = await read_json_object()
        try:
            node, unknown = _parse_joining(api, body)
            node, token = _check_terms(api, node)
            known = api.registry.heard(node)
            if not known:
                await _check_address(api, node)
            await _check_once(api, node, token)
            _invite(api, node, token, body.get("nonce"))
            new = not known and await _let_in(api, node)
            if new and unknown:
                named, here = ", ".join(unknown)[:1000], ", ".join(sorted(api.services))
                name = api.registry.names.of(node.node_id)
                log.warning("node %s joined for %s, which is no service here; known: %s", name, named, here)
        except Refusal as refusal:
            # Whoever waits for the machine reads no log of its node's.
            if is_key(machine := body.get("machine")):
                api.registry.note_refused(machine, f"its node was not let in: {refusal}")
            _note_refused(api, body, refusal)
            raise
        answer = {"id": node.node_id, "url": node.url, "services": list(node.services)}
        answer["unknown_services"] = unknown
        headers = {"Location": f"nodes/{node.node_id}", CHALLENGE: api.node_proofs.challenge()}
        return json_response(answer, 201 if new else 200, headers)

    @page.get("/link")
    @describe(
        "A node opens a connection over which this server asks it from then on, as one that it cannot reach",
        answers={101: f"With `Upgrade: {REVERSED}` and the node's id in `{NODE_HEADER}`"},
        errors={
            403: "Who has proved to be another node",
            409: "The node has a secret with this server, and does not prove it",
            422: "There is no id",
            426: "It asks for no upgrade, or the server that this app runs in cannot give connections away",
        },
    )
    async def open_link() -> Response:
        detail = f"`Upgrade: {REVERSED}` is expected, and a server that hands connections over: ours does"
        raise Refusal(426, "upgrade_required", detail, headers={"Upgrade": REVERSED})

    @page.delete("/nodes/<node_id:node_id>")
    @describe(
        "A node that joined leaves. With `force` also while jobs run there: these begin anew",
        in_query("force", "Let it leave although jobs run there", Annotated[bool, Also(default=False)]),
        answers={204: "It has left"},
        errors={
            **_UNKNOWN,
            400: "A query parameter is wrong",
            409: "It is in the settings, or jobs run there: drain it first",
        },
    )
    async def remove_node(node_id: str) -> Response:
        node_id = _id_of(api, node_id)
        _refuse_other_node(node_id)
        if not query_params.flag(query("force"), "force"):
            await _refuse_busy(api, node_id)
        if await api.registry.leave(node_id, entry_of("leave", node=node_id)):
            return Response(b"", status=204)
        view = await _find(api, node_id)
        if view.services:
            raise Refusal(
                409,
                "static_node",
                f"node {api.registry.names.of(node_id)} did not join: it is in the settings of "
                f"{', '.join(view.services)}; take it out there, or drain it",
            )
        raise _unknown_node(node_id)

    @page.delete("/nodes/<path:node_id>/secret")
    @describe(
        "Forget the secret with a node, which has lost its own: whoever has its id next may agree on another",
        answers={204: "It is forgotten"},
        errors=UNAVAILABLE | {404: "There is none with that node"},
    )
    async def forget_secret(node_id: str) -> Response:
        query()
        node_id = _id_of(api, node_id)
        if not await api.node_secrets.forget(node_id, entry_of("forget_secret", node=node_id)):
            raise Refusal(404, "unknown_secret", f"there is no secret with node {node_id[:200]!r}")
        return Response(b"", status=204)

    @page.post("/nodes/<path:node_id>/drain")
    @describe(
        "Give a node no more jobs; what runs there goes on. Holds until undrain, restarts too",
        answers={200: ("It drains", bodies.Node)},
        errors=_UNKNOWN | _BAD_BODY,
        body=ORDER,
    )
    async def drain_node(node_id: str) -> Response:
        query()
        node_id = _id_of(api, node_id)
        reason = _parse_reason(await read_json_object())
        if not await api.registry.drain(node_id, reason, entry_of("drain", node=node_id, detail=reason)):
            raise _unknown_node(node_id)
        return json_response(_render(api, await _find(api, node_id), trio.current_time()))

    @page.post("/nodes/<path:node_id>/undrain")
    @describe("Give a node jobs again", answers={200: ("The node", bodies.Node)}, errors=_UNKNOWN)
    async def undrain_node(node_id: str) -> Response:
        query()
        node_id = _id_of(api, node_id)
        if not await api.registry.undrain(node_id, entry_of("undrain", node=node_id)):
            raise _unknown_node(node_id)
        return json_response(_render(api, await _find(api, node_id), trio.current_time()))

    return page


def dialling_route(api: ApiContext, admit: Admit) -> ReversedRoute:
    """Where nodes that cannot be reached open the connections over which they are asked."""
    dialling: ContextVar[str] = ContextVar("dialling")

    async def admit_node(head: Head) -> None:
        await admit(head)
        asks, said = asking.get(), head.header(NODE_HEADER.lower())
        if not is_key(said):
            raise Refusal(422, "bad_node", f"{NODE_HEADER}: the node's id, 32 hex digits, was expected")
        if asks.node not in (None, said):
            raise _is_other(api, asks.node)
        if asks.node is None and api.node_secrets.find(said) is not None:
            # What is sent over it is for that node alone.
            raise _not_proved(api, said)
        dialling.set(said)

    async def keep(stream: trio.abc.Stream) -> None:
        await api.dialled.keep(dialling.get(), stream, asked_from.get())

    return ReversedRoute(PATH, admit_node, keep)


class _NodeId(PathConverter):
    """A node's id or name alone; the id of a node that knows only the contract is an URL."""

    regex = r"(?!.*/(?:(?:un)?drain|secret)$)[^/].*?"


def _id_of(api: ApiContext, given: str) -> str:
    """The id of the node that is called so, or has this id."""
    return api.registry.names.find(given) or given


def _unknown_node(node_id: str) -> Refusal:
    return Refusal(404, "unknown_node", f"there is no node {node_id[:200]!r}")


def _note_refused(api: ApiContext, body: dict[str, Any], refusal: Refusal) -> None:
    """Its operator looks for it at the server, too: in the audit, and as often in the log."""
    told, address = body.get("id"), asked_from.get()
    who = told if is_key(told) else "without an id"
    if api.refusals.note(address, refusal.code, f"POST /v1/nodes of node {who}: {refusal}", asking.get()):
        about = {"node": who, "address": address, "code": refusal.code}
        log.warning("node %s was not let in, from %s: %s", who, address, refusal, extra=about)


async def _find(api: ApiContext, node_id: str) -> NodeView:
    for view in await api.pool():
        if view.node.node_id == node_id:
            return view
    raise _unknown_node(node_id)


def _render(api: ApiContext, view: NodeView, now: float) -> dict[str, Any]:
    remark = api.registry.remark_on(view.machine)
    return render_node(replace(view, reason="; ".join(filter(None, (view.reason, remark)))), now)


def _refuse_other_node(node_id: str) -> None:
    """Raises Refusal for a node that does not ask for itself, or does not prove that it does."""
    asks = asking.get()
    if asks.role is Role.NODE and asks.node != node_id:
        raise _unknown_node(node_id)


def _check_terms(api: ApiContext, node: JoinedNode) -> tuple[JoinedNode, TokenRecord | None]:
    """The node as it may join, and the token if it has no secret yet; None for whoever needs none. Raises
    Refusal: also for one that has a secret, and does not prove it."""
    asks, known = asking.get(), api.node_secrets.find(node.node_id)
    token = None
    if asks.node is not None:
        if asks.node != node.node_id or known is None:
            raise _is_other(api, asks.node)
        terms = known.terms
    elif known is not None:
        raise _not_proved(api, node.node_id)
    else:
        at = api.registry.url_of(node.node_id)
        moved = at is not None and at != node.url and node.node_id not in api.node_secrets.forgotten
        if moved and asks.role is not Role.OPERATOR:
            name = api.registry.names.of(node.node_id)
            raise Refusal(
                409,
                "node_elsewhere",
                f"node {name} joined from {at} and has no secret to prove that it moved: an operator "
                f"has it leave (DELETE /v1/nodes/{name}) before it joins from elsewhere",
            )
        token = None if asks.token is None else api.tokens.get(asks.token)
        if token is None and asks.role is Role.NODE:
            raise Refusal(401, "bad_token", "the token was revoked meanwhile")
        terms = Terms() if token is None else Terms.of(token)
    objection = terms.objection(node.services, node.slots, asked_from.get())
    if objection is not None:
        raise Refusal(403, *objection)
    return replace(node, kind="" if terms.token is None else BY_TOKEN), token


def _is_other(api: ApiContext, proved: str) -> Refusal:
    name = api.registry.names.of(proved)
    return Refusal(403, "other_node", f"the one that has proved who it is is node {name}")


def _not_proved(api: ApiContext, node_id: str) -> Refusal:
    name = api.registry.names.of(node_id)
    detail = (
        f"node {name} has a secret with this orchestrator, and whoever joins in its name has to prove it. "
        f"If the node has lost it, an operator orders `orchestrator unpair {name}` "
        f"(DELETE /v1/nodes/{name}/secret)"
    )
    return Refusal(409, "secret_not_proved", detail)


async def _check_once(api: ApiContext, node: JoinedNode, token: TokenRecord | None) -> None:
    """Raises Refusal if a one-time token is used up."""
    if token is None or not token.once:
        return
    claimed = api.tokens.claim(token.id, node.node_id)
    if claimed is None:
        raise Refusal(403, "token_used", "the token was for one node once, which has joined: make another")
    if token.claimed_at is None:
        await api.ledger.note_claim(claimed)


def _invite(api: ApiContext, node: JoinedNode, token: TokenRecord | None, nonce: object) -> None:
    """Have the link to a node without a secret agree on one. Raises Refusal."""
    if api.node_secrets.find(node.node_id) is not None:
        return
    if nonce is not None and not is_nonce(nonce):
        refuse_field("nonce", "32 hex digits")
    if token is None or (nonce is None and token.role is not Role.NODE):
        api.node_secrets.invite(node.node_id, machine=node.machine)
    elif nonce is None:
        refuse_field("nonce", "of a node that joins by a token a nonce of 32 hex digits")
    else:
        api.node_secrets.invite(node.node_id, token, str(nonce), node.machine)


async def _let_in(api: ApiContext, node: JoinedNode) -> bool:
    """Whether it was not here before. Raises Refusal."""
    try:
        return await api.registry.join(node, entry_of("join", node=node.node_id, detail=node.url))
    except MachineTaken as error:
        raise Refusal(409, "machine_taken", str(error)) from None


async def _refuse_busy(api: ApiContext, node_id: str) -> None:
    """Raises Refusal for a node that joined, is in touch and runs jobs: without it they would be lost."""
    for view in await api.pool():
        if view.node.node_id == node_id and view.joined and view.held and view.contact is not NodeState.LOST:
            jobs = "1 job runs" if view.held == 1 else f"{view.held} jobs run"
            raise Refusal(
                409,
                "busy_node",
                f"node {api.registry.names.of(node_id)}: drain it first: {jobs} there. With ?force=true it "
                "leaves now, and they are begun anew elsewhere",
            )


async def _check_address(api: ApiContext, node: JoinedNode) -> None:
    """Raises Refusal unless the node that answers at the address is the one that joins."""
    who = await api.nodes.introduce(node.url)
    if who.kind is NodeKind.UNCLEAR:
        raise Refusal(
            422,
            "unreachable_node",
            f"url {node.url}: the node cannot be asked who it is: {who.reason}; "
            "the address has to be one that reaches it from here",
        )
    if who.kind is NodeKind.CONTRACT_ONLY:
        raise Refusal(
            422, "no_node", f"url {node.url}: what answers there is no node of ours; name it in the settings"
        )
    if who.node_id != node.node_id:
        there, wanted = api.registry.names.of(who.node_id), api.registry.names.of(node.node_id)
        raise Refusal(409, "other_node", f"url {node.url}: node {there} answers there, not {wanted}")


# ---------------------------------------------------------------------- bodies


def _parse_reason(body: dict[str, Any]) -> str:
    reason = parse_reason(body)
    if reason.startswith(DRAINED_BY_SCALING):
        refuse_field("reason", f"a text that does not begin with {DRAINED_BY_SCALING!r}")
    return reason


def _parse_joining(api: ApiContext, body: dict[str, Any]) -> tuple[JoinedNode, list[str]]:
    """Who joins, and the services of it that are not known here."""
    refuse_unknown(body, *_FIELDS)
    node_id, machine, slots = body.get("id"), body.get("machine"), body.get("slots")
    if not is_key(node_id):
        refuse_field("id", "the node's id, 32 hex digits,")
    if machine is not None and not is_key(machine):
        refuse_field("machine", "null, or a machine's token of 32 hex digits,")
    if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int) or slots < 1):
        refuse_field("slots", "null, or a whole number above 0,")
    services = body.get("services")
    if not isinstance(services, list) or not services or not all(isinstance(one, str) for one in services):
        refuse_field("services", "a list of names")
    known = tuple(sorted({name for name in services if name in api.services}))
    if not known:
        here = ", ".join(sorted(api.services)) or "none"
        named = ", ".join(str(name)[:100] for name in services[:10])
        raise Refusal(422, "unknown_service", f"services: {named} are not known here; known: {here}")
    node = JoinedNode(
        node_id, _parse_url(body.get("url")), known, slots, _parse_labels(body.get("labels")), machine=machine
    )
    return node, sorted({name for name in services if name not in api.services})


def _parse_url(value: Any) -> str:
    try:
        found = base_url(value)
    except Wrong as wrong:
        refuse_field("url", str(wrong))
    if len(found) > MOST_URL:
        refuse_field("url", f"an URL of at most {MOST_URL} characters")
    return found


def _parse_labels(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MOST_LABELS:
        refuse_field("labels", f"an object of at most {MOST_LABELS} labels")
    for name, text in value.items():
        if not is_label_name(name):
            refuse_field(
                "labels", f"instead of {name[:100]!r} a name of at most 63 letters, digits and . _ / -"
            )
        if not is_label_value(text):
            refuse_field(f"labels.{name}", "a text of at most 200 characters")
    return dict(value)
