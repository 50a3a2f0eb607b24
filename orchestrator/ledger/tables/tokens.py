"""Tokens, by their hashes: a secret itself is kept nowhere."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.access.roles import Role
from orchestrator.access.tokens import TokenRecord

TABLES: Final = (
    """CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        services TEXT NOT NULL,
        user_id INTEGER,
        created_at REAL NOT NULL,
        expires_at REAL,
        used_at REAL,
        revoked_at REAL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE node_secrets (
        node_id TEXT PRIMARY KEY,
        secret TEXT NOT NULL,
        token_id TEXT,
        made_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
)


def read_tokens(db: sqlite3.Connection) -> Sequence[TokenRecord]:
    """Those that were not revoked."""
    rows = db.execute(
        "SELECT id, hash, role, name, created_at, services, user_id, expires_at, used_at FROM tokens "
        "WHERE revoked_at IS NULL"
    )
    return [
        TokenRecord(row[0], row[1], Role(row[2]), row[3], row[4], tuple(json.loads(row[5])), *row[6:])
        for row in rows
    ]


def read_portal_made(db: sqlite3.Connection) -> bool:
    """Whether a token of the role portal was ever made."""
    return db.execute("SELECT 1 FROM tokens WHERE role = ?", (Role.PORTAL.value,)).fetchone() is not None


def store_token(db: sqlite3.Connection, token: TokenRecord) -> None:
    db.execute(
        "INSERT INTO tokens (id, hash, role, name, services, user_id, created_at, expires_at, used_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            token.id,
            token.hash,
            token.role.value,
            token.name,
            json.dumps(list(token.services)),
            token.user,
            token.created_at,
            token.expires_at,
            token.used_at,
        ),
    )


def revoke_token(db: sqlite3.Connection, token_id: str, now: float) -> bool:
    """False if there is none, or if it was revoked before."""
    done = db.execute("UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (now, token_id))
    return done.rowcount > 0


def store_uses(db: sqlite3.Connection, used: Mapping[str, float]) -> None:
    db.executemany("UPDATE tokens SET used_at = ? WHERE id = ?", [(at, one) for one, at in used.items()])
