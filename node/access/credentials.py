"""By what a node is let in at the orchestrator that it joins: a secret of both, its token, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors.wire.link.proof import prove_join
from node.access.kept_secrets import Kept

if TYPE_CHECKING:
    import httpx

CHALLENGE: Final = "X-Node-Challenge"


@dataclass(frozen=True, slots=True)
class Answered:
    """`challenge` is the one for the next time; `why` what is said of a refusal."""

    status: int
    challenge: str
    why: str = ""


class Credentials:
    """`kept` gives the secrets that there are, by the ids of their orchestrators. Which of them is the one
    that is joined is known once it has taken a proof."""

    def __init__(self, node_id: str, token: str | None, kept: Callable[[], Mapping[str, Kept]]) -> None:
        self._node_id = node_id
        self._token = token
        self._kept = kept
        self._challenge = ""
        self._owner: str | None = None

    async def send(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        body: bytes = b"",
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer. Raises as the client does."""
        answers: list[httpx.Response] = []

        async def say(authorization: str | None) -> Answered:
            headers = {"Content-Type": "application/json"} if body else {}
            if authorization is not None:
                headers["Authorization"] = authorization
            answer = await client.request(method, path, content=body, headers=headers, params=params)
            answers.append(answer)
            return Answered(answer.status_code, answer.headers.get(CHALLENGE, ""))

        await self.ask(say, method, path, body)
        return answers[-1]

    async def ask(
        self,
        say: Callable[[str | None], Awaitable[Answered]],
        method: str,
        path: str,
        body: bytes = b"",
    ) -> Answered:
        """The last answer: `say` sends the request with an `Authorization`, or without one."""

        async def tried(secret: bytes) -> Answered:
            answer = await say(self._proof(secret, method, path, body))
            self._challenge = answer.challenge
            return answer

        for owner, secret in self._secrets():
            answer = await tried(secret)
            if answer.status == 401 and answer.challenge:
                answer = await tried(secret)
            if answer.status != 401:
                self._owner = owner
                return answer
        answer = await say(None if self._token is None else f"Bearer {self._token}")
        self._challenge = answer.challenge
        return answer

    def _secrets(self) -> list[tuple[str, bytes]]:
        """The one that was taken last, first."""
        found = [(owner, kept.secret) for owner, kept in self._kept().items() if kept.secret]
        return sorted(found, key=lambda one: one[0] != self._owner)

    def _proof(self, secret: bytes, method: str, path: str, body: bytes) -> str:
        said = hashlib.sha256(body).hexdigest()
        proof = prove_join(secret, method, path, said, self._challenge)
        return f"Node {self._node_id}:{self._challenge}:{said}:{proof}"
