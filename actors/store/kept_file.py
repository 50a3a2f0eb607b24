"""Reading again what this project has written: a file that is damaged is a value to be judged, not the end of
whoever reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.store.durable import is_passing, read_small, write_durably
from actors.store.repair import set_aside

SECRET_MOST: Final = 1024
"""Bytes of a file with a secret."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Something stands there that cannot be what was written; `why` is for the log."""

    why: str


def read_kept(path: Path | str, most: int) -> bytes | Damaged | None:
    """What is in a file of at most `most` bytes; None if there is none. Neither links nor what is no regular
    file is read. Blocks. Raises `OSError` for what passes."""
    try:
        content = read_small(path, most)
    except OSError as error:
        if is_passing(error):
            raise
        return Damaged(error.strerror or str(error))
    if content is None and os.path.lexists(path):
        return Damaged(f"it is no file of at most {most} bytes")
    return content


def read_object(path: Path | str, most: int) -> dict[str, Any] | Damaged | None:
    """The same of a file that holds one JSON object."""
    content = read_kept(path, most)
    if not isinstance(content, bytes):
        return content
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return Damaged(f"it is no JSON: {error}")
    return found if isinstance(found, dict) else Damaged("it is no JSON object")


def keep_secret(path: Path, is_good: Callable[[bytes], bool], fresh: bytes) -> bytes:
    """What is in a file of ours that this account alone may read: `fresh`, where there was none, or one that
    is damaged, no good, or open to others. Blocks. Raises `OSError`."""
    kept = read_kept(path, SECRET_MOST)
    if isinstance(kept, bytes) and is_good(kept) and not path.stat().st_mode & 0o077:
        return kept
    set_aside(path)
    path.unlink(missing_ok=True)
    write_durably(path, fresh)
    return fresh
