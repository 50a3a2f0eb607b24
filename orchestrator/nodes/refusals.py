"""What it means when a node refuses a request as a whole, by its HTTP status, and when there is nothing to be
sent."""

from __future__ import annotations

import json
from typing import Any, Final

from actors.ports.nodes import SubmitAnswer, SubmitResult
from actors.ports.storage import StorageError
from actors.store.durable import is_passing
from actors.wire.protocol.attempts import Garbled
from orchestrator.http_client import BodyUnreadable, Reply

_SENTENCE: Final = 300
_MALFORMED: Final = frozenset({400, 411, 413, 414, 415, 422, 431})
_BUSY: Final = frozenset({429, 503, 507})


def refusal(status: int, data: Any) -> SubmitAnswer:
    """A submit answered with an error. Malformed: the node will never take it. Other client errors and
    redirects: this is not the place, or not the time, but certainly nothing was taken. A server's error may
    have come after the attempt was kept, or from a proxy that knows nothing."""
    sentence = f"HTTP {status}: {_sentence(data)}"
    if status in _MALFORMED:
        return SubmitAnswer(SubmitResult.MALFORMED, sentence)
    if status in _BUSY or (300 <= status < 500 and status != 408):
        return SubmitAnswer(SubmitResult.BUSY, sentence)
    return SubmitAnswer(SubmitResult.DOUBT, sentence)


async def error_text(reply: Reply) -> str:
    """An error's sentence."""
    return f"HTTP {reply.status}: {_sentence(await json_body(reply))}"


async def json_body(reply: Reply) -> Any:
    """An error's body: JSON, else text; empty when it is too long. Raises Broken."""
    try:
        raw = await reply.read(1 << 16)
    except Garbled:
        return ""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")


def _sentence(data: Any) -> str:
    if isinstance(data, dict):
        data = data.get("detail") or data.get("message") or data.get("title") or ""
    text = " ".join(str(data).split())
    return text[:_SENTENCE] if text else "no reason given"


def unreadable(error: StorageError | BodyUnreadable) -> SubmitAnswer:
    """Our own copy of the input cannot be read: for want of descriptors, threads or memory it is to be sent
    again, and else it never will be."""
    if isinstance(error, BodyUnreadable):
        passes = error.passes
    else:
        passes = error.__cause__ is not None and is_passing(error.__cause__)
    result = SubmitResult.HELD if passes else SubmitResult.UNREADABLE
    return SubmitAnswer(result, f"the input cannot be read: {error}")
