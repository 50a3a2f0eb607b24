"""A body into a file: taken up where it broke off, and never glued from two different ones.

While it is not whole it lies beside its place: `NAME.part`, and in `NAME.part.etag` of which version it is.
What a process left there that was killed, the next one goes on with.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from orchestrator.client.errors import BadAnswer, BadInput, Unreachable
from orchestrator.client.requests import Again, Exchange
from orchestrator.client.transport import Answer, Call, Progress

_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_NOTHING: Final = re.compile(r"bytes \*/(\d{1,18})", re.ASCII)


async def download(
    exchange: Exchange, call: Call, target: Path, *, resume: bool = True, progress: Progress | None = None
) -> Path:
    """Fetch what `call` asks for into `target`, which is there when it is whole; directories that it needs
    are made. Its path. Raises ClientError; what came stays, for the next time, unless `resume` is False.
    Where nothing came, nothing is made."""
    wire = exchange.wire
    part = await wire.thread(lambda: _Part(target, resume=resume))
    try:
        patience = exchange.patient()
        while True:
            before = part.size
            try:
                await _go_on(exchange, call, part, progress)
                break
            except Again as again:
                if part.size > before:
                    patience.came()
                await patience.failed(again)
        await wire.thread(part.finish)
    finally:
        part.close()
    return target


async def _go_on(exchange: Exchange, call: Call, part: _Part, progress: Progress | None) -> None:
    """One request for what is missing. Returns when all is there."""
    headers = dict(call.headers)
    if part.size and part.tag:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.tag}
    async with exchange.once(replace(call, headers=headers)) as answer:
        whole = await exchange.wire.thread(lambda: part.begin(answer))
        if progress is not None:
            progress(part.size, whole)
        if part.size == whole:
            return
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                await exchange.wire.thread(partial(part.write, piece))
                if progress is not None:
                    progress(part.size, whole)
    if whole is not None and part.size != whole:
        raise Again(Unreachable(f"{part.size} of {whole} bytes came; try again"))


class _Part:
    """The file that grows. Blocks. It is there, and the directories above it, when something comes for it."""

    def __init__(self, target: Path, *, resume: bool) -> None:
        self._target = target
        self._path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.etag")
        self._fd = -1
        self.size, self.tag = 0, ""
        with _translate_errors(target):
            try:
                self._open(0)
            except FileNotFoundError:
                return
            try:
                self.tag = self._read_tag() if resume else ""
                if self.tag:
                    self.size = os.lseek(self._fd, 0, os.SEEK_END)
            except BaseException:
                os.close(self._fd)
                raise

    def begin(self, answer: Answer) -> int | None:
        """Make ready for the body of this answer. How many bytes there are in all, None if nobody says."""
        with _translate_errors(self._target):
            tag = answer.headers.get("etag", "")
            content_range = answer.headers.get("content-range", "")
            if answer.status == 206:
                found = _RANGE.fullmatch(content_range)
                if not self.tag or found is None or int(found[1]) != self.size or tag != self.tag:
                    self._forget()
                    raise Again(BadAnswer("the part that came is not the one that was asked for; try again"))
                return int(found[3])
            if answer.status == 416:
                nothing = _NOTHING.fullmatch(content_range)
                # Nothing is missing. Of another version all would have come, for If-Range was sent too.
                if self.tag and nothing and int(nothing[1]) == self.size and tag in ("", self.tag):
                    return self.size
                self._forget()
                raise Again(BadAnswer("what was there has changed; try again"))
            # A weak tag does not say that every byte is the same.
            self._start_over("" if tag.startswith("W/") else tag)
            length = answer.headers.get("content-length")
            return int(length) if length is not None and length.isdigit() else None

    def write(self, piece: bytes) -> None:
        """Append it."""
        with _translate_errors(self._target):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self.size += len(piece)

    def finish(self) -> None:
        """Put it in its place."""
        with _translate_errors(self._target):
            os.fsync(self._fd)
            os.replace(self._path, self._target)
            self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)

    def _open(self, creating: int) -> None:
        """For this process alone."""
        fd = os.open(self._path, os.O_RDWR | creating | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise BadInput(
                f"{self._target} is being downloaded by another process; wait for it or name another place"
            ) from None
        self._fd = fd

    def _read_tag(self) -> str:
        try:
            return self._note.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""  # without its tag nobody knows what it is a part of

    def _start_over(self, tag: str) -> None:
        if self._fd < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open(os.O_CREAT)
        self._forget()
        self.tag = tag
        if tag:
            self._note.write_text(tag, encoding="utf-8")

    def _forget(self) -> None:
        # First the tag goes, then the bytes, and a new tag comes after them: whenever this is broken off, no
        # bytes stand beside a tag that is not theirs.
        self._note.unlink(missing_ok=True)
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.size, self.tag = 0, ""


@contextmanager
def _translate_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{str(target)!r} cannot be written: {error.strerror}; make room or name another place"
        ) from error
