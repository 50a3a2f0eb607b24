"""Nodes that joined by themselves, the order that a node gets no more jobs, nodes that are away and expected
back, and how nodes are called."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from actors.domain.node import JoinedNode, NodeName

_COLUMNS: Final = "node_id, url, services, slots, labels, kind, last_seen, machine"

# A drain stands by itself: static nodes have no row in the table of nodes.
TABLES: Final = (
    """CREATE TABLE nodes (
        node_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        services TEXT NOT NULL,
        slots INTEGER,
        labels TEXT NOT NULL,
        kind TEXT NOT NULL,
        last_seen REAL NOT NULL,
        machine TEXT
    ) STRICT""",
    "CREATE TABLE drains (node_id TEXT PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE absences (node_id TEXT PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID",
    # In the order in which they were given, or the nodes left.
    """CREATE TABLE node_names (
        node_id TEXT PRIMARY KEY,
        said TEXT NOT NULL,
        name TEXT NOT NULL,
        url TEXT NOT NULL,
        has_left INTEGER NOT NULL
    ) STRICT""",
)


def read_nodes(db: sqlite3.Connection) -> Sequence[JoinedNode]:
    return [
        JoinedNode(node_id, url, tuple(json.loads(services)), slots, json.loads(labels), *rest)
        for node_id, url, services, slots, labels, *rest in db.execute(
            f"SELECT {_COLUMNS} FROM nodes ORDER BY node_id"
        )
    ]


def store_node(db: sqlite3.Connection, node: JoinedNode) -> None:
    db.execute(
        f"INSERT INTO nodes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node_id) DO UPDATE SET "
        "url = excluded.url, services = excluded.services, slots = excluded.slots, "
        "labels = excluded.labels, kind = excluded.kind, last_seen = excluded.last_seen, "
        "machine = excluded.machine",
        (
            node.node_id,
            node.url,
            json.dumps(list(node.services)),
            node.slots,
            json.dumps(dict(node.labels)),
            node.kind,
            node.last_seen,
            node.machine,
        ),
    )


def remove_node(db: sqlite3.Connection, node_id: str) -> bool:
    return db.execute("DELETE FROM nodes WHERE node_id = ?", (node_id,)).rowcount > 0


def read_drains(db: sqlite3.Connection) -> Mapping[str, str]:
    return dict(db.execute("SELECT node_id, reason FROM drains ORDER BY node_id").fetchall())


def store_drain(db: sqlite3.Connection, node_id: str, reason: str | None) -> None:
    """Order a drain for that reason; None lifts it."""
    _store(db, "drains", node_id, reason)


def read_absences(db: sqlite3.Connection) -> Mapping[str, str]:
    return dict(db.execute("SELECT node_id, reason FROM absences ORDER BY node_id").fetchall())


def store_absence(db: sqlite3.Connection, node_id: str, reason: str | None) -> None:
    """A node is away for that reason and expected back; None: not any more."""
    _store(db, "absences", node_id, reason)


def read_names(db: sqlite3.Connection) -> Sequence[NodeName]:
    names = db.execute("SELECT node_id, said, name, url, has_left FROM node_names ORDER BY rowid")
    return [NodeName(node_id, said, name, url, bool(left)) for node_id, said, name, url, left in names]


def store_names(db: sqlite3.Connection, names: Iterable[NodeName], gone: Iterable[str]) -> None:
    """Keep these, each as the latest, and forget those of nodes that are gone."""
    db.executemany("DELETE FROM node_names WHERE node_id = ?", [(node_id,) for node_id in gone])
    db.executemany(
        "INSERT OR REPLACE INTO node_names (node_id, said, name, url, has_left) VALUES (?, ?, ?, ?, ?)",
        [(one.node_id, one.said, one.name, one.url, one.left) for one in names],
    )


def _store(db: sqlite3.Connection, table: str, node_id: str, reason: str | None) -> None:
    if reason is None:
        db.execute(f"DELETE FROM {table} WHERE node_id = ?", (node_id,))
    else:
        db.execute(f"INSERT OR REPLACE INTO {table} (node_id, reason) VALUES (?, ?)", (node_id, reason))
