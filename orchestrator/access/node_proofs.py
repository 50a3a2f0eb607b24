"""A node that has joined before says again who it is, and proves it by the secret of both:

    Authorization: Node ID:CHALLENGE:BODY:PROOF

`BODY` is the SHA-256 of the request's body, `PROOF` an HMAC over the method, the path, both of these. A
challenge comes with a refusal, and with each answer for the next time, in `X-Node-Challenge`. It is good for
`GOOD_FOR` seconds, once, and only at the server process that has given it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Head
from actors.wire.link.proof import is_same, mac, new_nonce, prove_join
from orchestrator.access.node_secrets import NodeSecrets
from orchestrator.access.roles import Principal, Role

CHALLENGE: Final = "X-Node-Challenge"
ASKED_AGAIN: Final = "new_challenge"
"""The code of a refusal that is part of every proof."""
GOOD_FOR: Final = 60.0
LONGEST: Final = 1000

proved_body: Final[ContextVar[str | None]] = ContextVar("proved_body", default=None)
"""The SHA-256 of the body that a request was proved with."""


class NodeProofs:
    """`now` is monotonic."""

    def __init__(self, known: NodeSecrets, now: Callable[[], float]) -> None:
        self._known = known
        self._now = now
        self._key = secrets.token_bytes(32)
        self._used: dict[str, float] = {}

    def challenge(self) -> str:
        until, nonce = f"{self._now() + GOOD_FOR:.3f}", new_nonce()
        return f"{until}.{nonce}.{self._seal(until, nonce)}"

    def read(self, head: Head) -> Principal | None:
        """Which node asks, if it says so; None for whoever else. Raises Refusal (401)."""
        proved_body.set(None)
        told = head.header("authorization")
        if told is None:
            return None
        scheme, _, said = told.strip().partition(" ")
        if scheme.lower() != "node":
            return None
        parts = said.split(":")
        if len(said) > LONGEST or len(parts) != 4:
            raise Refusal(401, "bad_proof", f"Authorization: {__doc__.split(chr(10) * 2)[1].strip()}")
        node_id, challenge, body, proof = parts
        known = self._known.find(node_id)
        if known is None:
            detail = "this orchestrator has no secret with that node: it joins by a token, or an operator"
            raise Refusal(401, "unknown_node", detail)
        if not self._is_good(challenge):
            raise self._again(ASKED_AGAIN, f"answer the challenge in {CHALLENGE}")
        if not is_same(proof, prove_join(known.secret, head.method, head.path, body, challenge)):
            raise self._again("wrong_proof", "it does not prove that it has the secret of both")
        self._use(challenge)
        proved_body.set(body)
        terms = known.terms
        name = f"node {node_id[:8]}"
        return Principal(Role.NODE, name, frozenset(terms.services), None, terms.token, node_id)

    def _again(self, code: str, detail: str) -> Refusal:
        return Refusal(401, code, detail, headers={CHALLENGE: self.challenge()})

    def _seal(self, until: str, nonce: str) -> str:
        return mac(self._key, "challenge", until, nonce).hex()

    def _is_good(self, challenge: str) -> bool:
        until, _, rest = challenge.rpartition(".")[0].rpartition(".")
        seal = challenge.rpartition(".")[2]
        if challenge in self._used or not is_same(seal, self._seal(until, rest)):
            return False
        return float(until) > self._now()

    def _use(self, challenge: str) -> None:
        now = self._now()
        for old in [one for one, until in self._used.items() if until <= now]:
            del self._used[old]
        self._used[challenge] = now + GOOD_FOR


def is_proved_body(body: bytes) -> bool:
    """Whether this is the body that the request was proved with, if it was."""
    proved = proved_body.get()
    return proved is None or is_same(proved, hashlib.sha256(body).hexdigest())
