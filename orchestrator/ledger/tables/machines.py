"""Machines and decisions of scaling."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from actors.domain.scaling import DecisionRecord, MachineRecord, MachineState

DECISIONS_KEPT: Final = 5000
ENDED_KEPT: Final = 1000
"""Rows of ended machines that are kept, the newest: what was paid for lately can still be looked up."""

_IS_ALIVE: Final = "state <> 'ended'"

TABLES: Final = (
    """CREATE TABLE machines (
        token TEXT PRIMARY KEY,
        service TEXT NOT NULL,
        state TEXT NOT NULL,
        requested_at REAL NOT NULL,
        machine_id TEXT,
        node_id TEXT,
        reason TEXT NOT NULL
    ) STRICT""",
    f"CREATE INDEX machines_alive ON machines (requested_at) WHERE {_IS_ALIVE}",
    """CREATE TABLE scaling_decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        service TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL
    ) STRICT""",
    # An index ends in the rowid: this one is in the order of the decisions.
    "CREATE INDEX scaling_decisions_service ON scaling_decisions (service)",
)


def read_machines(db: sqlite3.Connection) -> Sequence[MachineRecord]:
    statement = (
        "SELECT token, service, state, requested_at, machine_id, node_id, reason FROM machines "
        f"WHERE {_IS_ALIVE} ORDER BY requested_at, rowid"
    )
    return [
        MachineRecord(token, service, MachineState(state), *rest)
        for token, service, state, *rest in db.execute(statement)
    ]


def store_machine(db: sqlite3.Connection, record: MachineRecord) -> None:
    db.execute(
        "INSERT INTO machines (token, service, state, requested_at, machine_id, node_id, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (token) DO UPDATE SET service = excluded.service, "
        "state = excluded.state, requested_at = excluded.requested_at, machine_id = excluded.machine_id, "
        "node_id = excluded.node_id, reason = excluded.reason",
        (
            record.token,
            record.service,
            record.state.value,
            record.requested_at,
            record.machine_id,
            record.node_id,
            record.reason,
        ),
    )
    if record.state is MachineState.ENDED:
        db.execute(
            f"DELETE FROM machines WHERE NOT ({_IS_ALIVE}) AND rowid NOT IN (SELECT rowid FROM machines "
            f"WHERE NOT ({_IS_ALIVE}) ORDER BY requested_at DESC, rowid DESC LIMIT ?)",
            (ENDED_KEPT,),
        )


def store_decision(db: sqlite3.Connection, decision: DecisionRecord) -> None:
    added = db.execute(
        "INSERT INTO scaling_decisions (at, service, action, subject, reason) VALUES (?, ?, ?, ?, ?)",
        (decision.at, decision.service, decision.action, decision.subject, decision.reason),
    )
    assert added.lastrowid is not None
    db.execute("DELETE FROM scaling_decisions WHERE id <= ?", (added.lastrowid - DECISIONS_KEPT,))


def read_decisions(db: sqlite3.Connection, service: str | None, limit: int) -> Sequence[DecisionRecord]:
    where, given = ("", ()) if service is None else ("WHERE service = ?", (service,))
    parameters: tuple[Any, ...] = (*given, limit)
    statement = (
        f"SELECT at, service, action, subject, reason FROM scaling_decisions {where} ORDER BY id DESC LIMIT ?"
    )
    return [DecisionRecord(*row) for row in db.execute(statement, parameters)]
