"""Tokens, by their hashes: a secret itself is kept nowhere. The secrets that nodes have with us are."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.access.node_secrets import NodeSecret, Terms
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
        once INTEGER NOT NULL,
        max_slots INTEGER,
        sources TEXT NOT NULL,
        claimed_by TEXT,
        claimed_at REAL,
        revoked_at REAL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE node_secrets (
        node_id TEXT PRIMARY KEY,
        secret TEXT NOT NULL,
        made_at REAL NOT NULL,
        token_id TEXT,
        services TEXT NOT NULL,
        max_slots INTEGER,
        sources TEXT NOT NULL,
        machine TEXT
    ) STRICT, WITHOUT ROWID""",
)


def read_tokens(db: sqlite3.Connection) -> Sequence[TokenRecord]:
    """Those that were not revoked."""
    rows = db.execute(
        "SELECT id, hash, role, name, created_at, services, user_id, expires_at, used_at, once, max_slots, "
        "sources, claimed_by, claimed_at FROM tokens WHERE revoked_at IS NULL"
    )
    return [
        TokenRecord(
            row[0],
            row[1],
            Role(row[2]),
            row[3],
            row[4],
            tuple(json.loads(row[5])),
            user=row[6],
            expires_at=row[7],
            used_at=row[8],
            once=bool(row[9]),
            max_slots=row[10],
            sources=tuple(json.loads(row[11])),
            claimed_by=row[12],
            claimed_at=row[13],
        )
        for row in rows
    ]


def read_portal_made(db: sqlite3.Connection) -> bool:
    """Whether a token of the role portal was ever made."""
    return db.execute("SELECT 1 FROM tokens WHERE role = ?", (Role.PORTAL.value,)).fetchone() is not None


def store_token(db: sqlite3.Connection, token: TokenRecord) -> None:
    db.execute(
        "INSERT INTO tokens (id, hash, role, name, services, user_id, created_at, expires_at, used_at, once, "
        "max_slots, sources, claimed_by, claimed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            token.once,
            token.max_slots,
            json.dumps(list(token.sources)),
            token.claimed_by,
            token.claimed_at,
        ),
    )


def store_claim(db: sqlite3.Connection, token: TokenRecord) -> None:
    db.execute(
        "UPDATE tokens SET claimed_by = ?, claimed_at = ? WHERE id = ?",
        (token.claimed_by, token.claimed_at, token.id),
    )


def revoke_token(db: sqlite3.Connection, token_id: str, now: float) -> bool:
    """False if there is none, or if it was revoked before."""
    done = db.execute("UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (now, token_id))
    return done.rowcount > 0


def store_uses(db: sqlite3.Connection, used: Mapping[str, float]) -> None:
    db.executemany("UPDATE tokens SET used_at = ? WHERE id = ?", [(at, one) for one, at in used.items()])


def read_node_secrets(db: sqlite3.Connection) -> Sequence[NodeSecret]:
    rows = db.execute(
        "SELECT node_id, secret, made_at, token_id, services, max_slots, sources, machine FROM node_secrets"
    )
    return [
        NodeSecret(
            node_id,
            bytes.fromhex(secret),
            made_at,
            Terms(token_id, tuple(json.loads(services)), max_slots, tuple(json.loads(sources))),
            machine,
        )
        for node_id, secret, made_at, token_id, services, max_slots, sources, machine in rows
    ]


def store_node_secret(db: sqlite3.Connection, made: NodeSecret) -> None:
    terms = made.terms
    db.execute(
        "INSERT OR REPLACE INTO node_secrets (node_id, secret, made_at, token_id, services, max_slots, "
        "sources, machine) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            made.node_id,
            made.secret.hex(),
            made.made_at,
            terms.token,
            json.dumps(list(terms.services)),
            terms.max_slots,
            json.dumps(list(terms.sources)),
            made.machine,
        ),
    )


def remove_node_secret(db: sqlite3.Connection, node_id: str) -> bool:
    """False if there was none."""
    return db.execute("DELETE FROM node_secrets WHERE node_id = ?", (node_id,)).rowcount > 0
