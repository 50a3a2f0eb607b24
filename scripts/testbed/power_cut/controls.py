"""The server, broken on purpose in one rule of what is synced: controls.py CONTROL COMMAND ARGUMENT...

A power cut has to find each of them; `kill -9` finds none.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from actors.domain.changes import Transition
from actors.store import durable
from orchestrator.ledger import ledger, transitions
from orchestrator.ledger.tables import meta
from orchestrator.storage.disk import Disk


def _soft_attempts() -> None:
    told_again = transitions.is_told_again
    transitions.is_told_again = lambda change: (
        told_again(change) or (isinstance(change, Transition) and change.attempt is not None)
    )


def _soft_uploads() -> None:
    write = ledger.SqliteLedger._write

    async def softly(self: ledger.SqliteLedger, work: Any, **how: Any) -> Any:
        is_insert = isinstance(work, partial) and work.func is ledger._insert
        return await write(self, work, **{**how, "soft": is_insert or how.get("soft", False)})

    ledger.SqliteLedger._write = softly  # type: ignore[method-assign]  # a stand-in


def _no_reserved_numbers() -> None:
    def finish(batch: ledger.LedgerBatch) -> None:
        if batch.seq != batch.stored:
            meta.store_seq(batch.db, batch.seq)
        elif batch.hardens:
            meta.count_sync(batch.db)

    ledger.LedgerBatch.finish = finish  # type: ignore[method-assign]  # a stand-in


def _unsynced_names() -> None:
    """Of what was renamed into its place."""
    sync_directory = durable.sync_directory

    def sync(self: Disk, path: Path) -> None:
        if path.parent.name != "jobs" and not (path / "result").exists():
            sync_directory(path)

    Disk.sync_directory = sync  # type: ignore[method-assign]  # a stand-in


def _early_notes() -> None:
    """The note of how far the ledger has come, also after a commit that is not synced."""

    def committed(batch: ledger.LedgerBatch) -> None:
        batch.note(batch.seq)

    ledger.LedgerBatch.committed = committed  # type: ignore[method-assign]  # a stand-in


CONTROLS: Final = {
    "soft-attempts": _soft_attempts,
    "soft-uploads": _soft_uploads,
    "no-reserved-numbers": _no_reserved_numbers,
    "unsynced-names": _unsynced_names,
    "early-notes": _early_notes,
}
"""What is broken, by the name of it."""

if __name__ == "__main__":
    CONTROLS[sys.argv[1]]()
    del sys.argv[:2]
    from orchestrator.cli import main

    main()
