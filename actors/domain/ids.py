"""What names a job, and what names all else: attempts, nodes, machines and directories."""

from __future__ import annotations

import re
from typing import Final, TypeGuard

MAX_ID: Final = 2**32 - 1
"""Ids of jobs go from 1 to this: the published contract has 32 bits for them."""
ID_RANGE: Final = f"a whole number from 1 to {MAX_ID}"

_ID: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_KEY: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NODE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def parse_id(text: str) -> int:
    """Raises ValueError for what is no id of a job."""
    # int() takes blanks, signs, underscores and the digits of other scripts.
    if not _ID.fullmatch(text) or int(text) > MAX_ID:
        raise ValueError(f"{text[:100]!r} is no id: {ID_RANGE} was expected")
    return int(text)


def is_key(value: object) -> TypeGuard[str]:
    """Whether it is 32 hex digits, as every name that is made here."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def is_node_name(value: object) -> TypeGuard[str]:
    """Whether a node may be called so: nothing that could be a node's id, or an URL."""
    return isinstance(value, str) and _NODE_NAME.fullmatch(value) is not None and not is_key(value)
