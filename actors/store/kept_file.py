"""Reading again what this project has written: a file that is damaged is a value to be judged, not the end of
whoever reads it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.store.durable import is_passing, read_small


@dataclass(frozen=True, slots=True)
class Damaged:
    """Something stands there that cannot be what was written; `why` is for the log."""

    why: str


def read_kept(path: Path, most: int) -> bytes | Damaged | None:
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


def read_object(path: Path, most: int) -> dict[str, Any] | Damaged | None:
    """The same of a file that holds one JSON object."""
    content = read_kept(path, most)
    if not isinstance(content, bytes):
        return content
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return Damaged(f"it is no JSON: {error}")
    return found if isinstance(found, dict) else Damaged("it is no JSON object")
