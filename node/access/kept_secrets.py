"""What this node has agreed on with its orchestrators: DATA/orchestrators/OWNER, a secret for each. None of
them is ever sent.

How both sides come to keep the same secret though either may die at any moment: the node keeps it first, as
unconfirmed, and only then proves that it has it; then the orchestrator keeps it, and says so; then the node
confirms it and tells what it has. Until that no order is given. So one that is unconfirmed may be known on
the other side or not: the orchestrator proves that it has it, which confirms it, or it begins again, and is
let. One that is confirmed is never agreed on anew with whoever says that it has lost it: he might be anybody.

A file that is damaged keeps its place: the node is not open again because its disk was bad.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from actors.domain.ids import is_key
from actors.store.durable import sync_directory, write_durably
from actors.store.kept_file import Damaged, read_object
from actors.store.repair import make_directory, retry_repaired
from actors.wire.link.proof import SECRET

log: Final = logging.getLogger("node.access")

MOST: Final = 64
"""Orchestrators that a node is for at most."""
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Kept:
    """`secret` is empty where the file is damaged."""

    secret: bytes = field(repr=False)
    confirmed: bool


class KeptSecrets:
    """By the ids of the orchestrators. What writes blocks, and raises OSError."""

    def __init__(self, data: Path) -> None:
        """Reads what is there. Raises OSError."""
        self._directory = data / "orchestrators"
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            names = []
        self._kept = {name: self._read(name) for name in names if is_key(name)}

    @property
    def all(self) -> Mapping[str, Kept]:
        return MappingProxyType(self._kept)

    def keep(self, owner: str, secret: bytes) -> None:
        """Not confirmed yet."""
        self._write(owner, Kept(secret, confirmed=False))

    def confirm(self, owner: str) -> None:
        """The orchestrator has it too. Nothing if it was confirmed before."""
        kept = self._kept.get(owner)
        if kept is not None and not kept.confirmed:
            self._write(owner, Kept(kept.secret, confirmed=True))

    def forget_all(self) -> None:
        for entry in os.scandir(self._directory) if self._directory.exists() else ():
            if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                os.unlink(entry.path)
        if self._kept:
            sync_directory(self._directory)
        self._kept.clear()

    def _write(self, owner: str, kept: Kept) -> None:
        assert is_key(owner)
        make_directory(self._directory)
        path = self._directory / owner
        content = json.dumps({"secret": kept.secret.hex(), "confirmed": kept.confirmed}).encode()
        retry_repaired(path, lambda: write_durably(path, content))
        sync_directory(self._directory.parent)
        self._kept[owner] = kept

    def _read(self, owner: str) -> Kept:
        path = self._directory / owner
        found = read_object(path, _LONGEST)
        if isinstance(found, dict):
            try:
                secret = bytes.fromhex(str(found.get("secret")))
            except ValueError:
                secret = b""
            if len(secret) == SECRET:
                return Kept(secret, confirmed=found.get("confirmed") is True)
        why = found.why if isinstance(found, Damaged) else "it holds no secret"
        log.error("%s is damaged (%s): start this node with --pair-anew, see docs/security.md", path, why)
        return Kept(b"", confirmed=True)
