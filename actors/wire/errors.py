"""What can be wrong with something that crosses between processes. `detail` is one sentence for a person."""

from __future__ import annotations

from collections.abc import Iterator

from actors.domain.errors import CoreError


class WireError(CoreError):
    """The base of all of these."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(WireError):
    """What was sent is malformed; the detail names the culprit. Becomes a 400."""


class TooLarge(WireError):
    """More than `limit` bytes were sent. Becomes a 413."""

    def __init__(self, detail: str, limit: int) -> None:
        super().__init__(detail)
        self.limit = limit


class CutOff(WireError):
    """The body ended in the middle: the peer left, or never finished."""


class BadArchive(WireError):
    """A zip is damaged, holds unsafe names, or is not what its manifest says."""


class SourceChanged(WireError):
    """A file is no longer what was announced: sending it would have produced a wrong body."""


class CannotListen(WireError):
    """The address cannot be listened on."""


class PortInUse(CannotListen):
    """Somebody else listens there."""


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a group and of the groups in it, in order."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on: a library wraps what the system said."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
