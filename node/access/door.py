"""Whose orders this node takes under `/v1`, over a link and beside it.

A node that has a secret with an orchestrator, or a token to join by, is closed: whoever does not prove that
he has the secret hears who this node is, and nothing more. One with neither is open, as it always was, for
the first orchestrator that links to it: with that one it agrees on a secret, and is closed. Where `SERVERS`
says who is served, or a server that knows only the published contract is served already, nobody else is let
in meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from actors.domain.ids import is_key
from actors.wire.http.app import Refusal
from actors.wire.link.proof import Claim, Judge, NotProved, hash_of, join_key
from actors.wire.link.session import Hello
from node.access.kept_secrets import MOST, KeptSecrets

ANEW: Final = "start the node with --pair-anew"


@dataclass(frozen=True, slots=True)
class Admit:
    """Nothing is to be proved."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Both have this."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Agree:
    """Both are to agree on a secret; `key` is what a token yields, or empty."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refuse:
    """`why` says what to do."""

    code: str
    why: str


Step = Admit | Prove | Agree | Refuse


class Door:
    """`token`: by which the node joins, and what it has `said` there for the token to yield a key for it
    alone; or by which the orchestrator that has it in its settings knows it. `most`: orchestrators that it
    pairs with, one after the other, where it has none."""

    def __init__(
        self, node_id: str, kept: KeptSecrets, token: str | None = None, said: str = "", most: int = 1
    ) -> None:
        self.node_id: Final = node_id
        self.kept: Final = kept
        self.said: Final = said
        self.token: Final = token
        self._most = most
        self._key = None if token is None else join_key(hash_of(token), said)
        self._judges: dict[str, Judge] = {}

    @property
    def closed(self) -> bool:
        return self._key is not None or bool(self.kept.all)

    # ------------------------------------------------------------------ links

    def meet(self, hello: Hello) -> Step:
        """What a link goes on with that an orchestrator has begun."""
        if not hello.nonce:
            return Refuse("no_proof", self._closed) if self.closed else Admit()
        if not is_key(hello.name):
            return Refuse("no_owner", "the orchestrator does not say who it is")
        kept = self.kept.all.get(hello.name)
        if not hello.offer:
            if kept is None:
                return Refuse("secret_lost_here", self._lost_here)
            return Prove(kept.secret) if kept.secret else Refuse("secret_damaged", _DAMAGED)
        if kept is not None and kept.confirmed:
            return Refuse("secret_lost_there", _LOST_THERE) if kept.secret else Refuse("damaged", _DAMAGED)
        return self._agree(hello.name)

    def may_keep(self, owner: str) -> Refuse | None:
        """Whether a secret that was agreed on meanwhile may be kept."""
        step = self._agree(owner)
        return step if isinstance(step, Refuse) else None

    def _agree(self, owner: str) -> Agree | Refuse:
        others = self.kept.all.keys() - {owner}
        if len(others) >= MOST:
            return Refuse("paired", f"this node has the secrets of {MOST} orchestrators: {ANEW}")
        if self._key is not None:
            return Agree(self._key)
        if len(others) >= self._most:
            return Refuse("paired", self._closed)
        return Agree("")

    def stands(self, owner: str, judge: Judge) -> None:
        """A link stands, with which requests may be proved: until there is a newer one."""
        self._judges[owner] = judge

    # ------------------------------------------------------------------ requests beside a link

    def admit(self, claim: str | None, method: str, path: str, query: str) -> str | None:
        """Who has proved that a request is his; None for who need not. Raises Refusal (403)."""
        if claim is None:
            if self.closed:
                raise Refusal(403, "paired", self._closed)
            return None
        try:
            said = Claim.parse(claim)
            judge = self._judges.get(said.owner)
            if judge is None:
                raise NotProved("there is no link of this orchestrator's")
            judge.judge(said, method, path, query)
        except NotProved as error:
            raise Refusal(403, "not_proved", f"the request is not proved: {error.detail}") from None
        return said.owner

    # ------------------------------------------------------------------ what is said

    @property
    def _closed(self) -> str:
        if not self.kept.all:
            return "this node has a token, by which it joins its orchestrator, and serves nobody else"
        owners = ", ".join(owner[:8] for owner in sorted(self.kept.all))
        return (
            f"this node is paired with the orchestrator {owners}, and serves whoever proves to be it. To "
            f"have it pair with another, {ANEW}"
        )

    @property
    def _lost_here(self) -> str:
        return (
            "the node has no secret with this orchestrator, which has one with it: was it paired anew? Then "
            f"let the orchestrator forget the old one: `orchestrator unpair {self.node_id}` "
            f"(DELETE /v1/nodes/{self.node_id}/secret)"
        )


_LOST_THERE: Final = (
    "the node has a secret with this orchestrator, which has none with it: was the ledger restored, or the "
    f"secret forgotten? Then {ANEW}"
)
_DAMAGED: Final = f"the file of the node's secret with this orchestrator is damaged: {ANEW}"
