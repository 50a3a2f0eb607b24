"""One request and its answer: made again where that is safe, refused in words."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

from orchestrator.client.errors import BadAnswer, ClientError, NotFound, Refused, Unreachable
from orchestrator.client.retries import AGAIN, Retries, parse_retry_after
from orchestrator.client.transport import Answer, Call, Wire
from orchestrator.contract.codec import BodyError, from_json
from orchestrator.errors import OrchestratorError

T = TypeVar("T")

LARGEST: Final = 64 << 20
"""Bytes that an answer may have which is read as a whole."""


ASKED: Final = 10.0
"""Seconds for which a call waits because the server asks for it; what takes longer is told at once."""


class Again(OrchestratorError):
    """A request that may be made again failed for the reason `why`; `pause` seconds were asked for."""

    def __init__(self, why: ClientError, pause: float | None = None) -> None:
        super().__init__(str(why))
        self.why = why
        self.pause = pause


class Exchange:
    """Requests over a wire."""

    def __init__(self, wire: Wire, retries: Retries) -> None:
        self.wire = wire
        self.retries = retries

    async def json(self, call: Call) -> Any:
        """The answer's body. Raises ClientError."""
        tried = 0
        while True:
            tried += 1
            try:
                return await self.json_once(call)
            except Again as again:
                if tried >= self.retries.tries or (again.pause or 0.0) > ASKED:
                    raise again.why from again.why.__cause__
                await self.wire.sleep(self.retries.pause(tried, again.pause))

    async def json_once(self, call: Call) -> Any:
        """The same without another try. Raises Again for what one may change, ClientError for all else."""
        async with self.once(call) as answer:
            body = await read(answer)
        if not body:
            return {}
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise BadAnswer(
                f"{self.wire.url}{call.path} answered no JSON; is the URL that of an orchestrator?"
            ) from None

    @asynccontextmanager
    async def once(self, call: Call) -> AsyncGenerator[Answer, None]:
        """The answer to a call that is made once, to be read inside. Raises Again for what another try may
        change, also where the answer breaks off, ClientError for all else."""
        try:
            async with self.wire.open(call) as answer:
                if answer.status >= 300 and answer.status != 416:
                    why = _refusal(self.wire.url, call, answer, await read(answer))
                    # Where the contract's routes have no codes, 409 to a key says nothing else.
                    under_way = (
                        answer.status == 409
                        and "Idempotency-Key" in call.headers
                        and isinstance(why, Refused)
                        and why.code in ("", "under_way")
                    )
                    if answer.status in AGAIN or under_way:
                        raise Again(why, parse_retry_after(answer.headers.get("retry-after")))
                    raise why
                yield answer
        except Unreachable as error:
            raise Again(error) from error

    def patient(self) -> Patience:
        """For what is taken up again and again."""
        return Patience(self)


class Patience:
    """Counts failures since something last came."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._tried = 0
        self._since = time.monotonic()

    def came(self) -> None:
        """Something came: all is well again."""
        self._tried = 0

    async def failed(self, again: Again, *, at_least: float | None = None) -> None:
        """Sleep before the next try. Raises the reason when patience is at its end."""
        now = time.monotonic()
        if self._tried == 0:
            self._since = now
        self._tried += 1
        retries = self._exchange.retries
        if now - self._since > retries.patience or retries.tries <= 1:
            raise again.why from again.why.__cause__
        await self._exchange.wire.sleep(retries.pause(self._tried, again.pause or at_least))


async def read(answer: Answer) -> bytes:
    """The whole body. Raises BadAnswer for one that is too large, Unreachable."""
    body = bytearray()
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > LARGEST:
                raise BadAnswer(
                    f"an answer is larger than {LARGEST} bytes; is the URL that of an orchestrator?"
                )
    return bytes(body)


def parse(kind: type[T], body: Any) -> T:
    """The body of an answer as a value of `contract.bodies`. Raises BadAnswer."""
    try:
        return from_json(kind, body)
    except BodyError as error:
        raise BadAnswer(f"{error}; is the URL that of an orchestrator?") from error


def _refusal(url: str, call: Call, answer: Answer, body: bytes) -> ClientError:
    status = answer.status
    if status < 400:
        target = answer.headers.get("location", "elsewhere")
        return BadAnswer(f"{url} leads to {target}; use the URL that it leads to")
    try:
        refusal = json.loads(body)
    except (ValueError, RecursionError):
        refusal = {}
    refusal = refusal if isinstance(refusal, Mapping) else {}
    text = str(refusal.get("detail") or refusal.get("message") or "").strip()
    code = str(refusal.get("code") or "")
    if status in (401, 403):
        how = "a client as token=, a command by ORCHESTRATOR_TOKEN_FILE"
        text = f"{text or 'this is not allowed'}; give a token that may do it, {how}"
    if (
        status in (404, 405)
        and code in ("", "not_found", "method_not_allowed")
        and call.path.startswith("/v1/")
    ):
        text = (
            f"{url} has no {call.method} {call.path}; it may be older than this client, or the URL is wrong"
        )
    if status == 404:
        return NotFound(status, code, text or f"{url} has no {call.path}; check the URL")
    return Refused(status, code, text or f"{url} answered {call.method} {call.path} with status {status}")
