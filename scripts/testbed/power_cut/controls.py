"""The server or a node, broken on purpose in one rule of what is synced:
controls.py CONTROL COMMAND ARGUMENT...

A power cut has to find each of them; `kill -9` finds none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from actors.domain.changes import NewJob, Transition
from actors.domain.payload import Payload
from actors.store import durable
from node.payloads import operations, records
from node.runs import manifest
from orchestrator.ledger import ledger, transitions
from orchestrator.ledger.batch import LedgerBatch
from orchestrator.ledger.tables import meta
from orchestrator.storage.disk import Disk

TakeUp: TypeAlias = Callable[..., Payload]


def _soft_attempts() -> None:
    """Also those that come with their job."""
    _insert_softly(lambda job: job.first is not None)
    told_again = transitions.is_told_again
    transitions.is_told_again = lambda change: (
        told_again(change) or (isinstance(change, Transition) and change.attempt is not None)
    )


def _soft_uploads() -> None:
    _insert_softly(lambda job: True)


def _insert_softly(which: Callable[[NewJob], bool]) -> None:
    write = ledger.SqliteLedger._write

    async def softly(self: ledger.SqliteLedger, work: Any, **how: Any) -> Any:
        is_soft = isinstance(work, partial) and work.func is ledger._insert and which(work.args[0])
        return await write(self, work, **{**how, "soft": is_soft or how.get("soft", False)})

    ledger.SqliteLedger._write = softly  # type: ignore[method-assign]  # a stand-in


def _no_reserved_numbers() -> None:
    def finish(batch: LedgerBatch) -> None:
        if batch.seq != batch.stored:
            meta.store_seq(batch.db, batch.seq)
        elif batch.hardens:
            meta.count_sync(batch.db)

    LedgerBatch.finish = finish  # type: ignore[method-assign]  # a stand-in


def _unsynced_names() -> None:
    """Of what was renamed into its place."""
    sync_directory = durable.sync_directory

    def sync(self: Disk, path: Path) -> None:
        if path.parent.name != "jobs" and not (path / "result").exists():
            sync_directory(path)

    Disk.sync_directory = sync  # type: ignore[method-assign]  # a stand-in


def _early_notes() -> None:
    """The note of how far the ledger has come, also after a commit that is not synced."""

    def committed(batch: LedgerBatch) -> None:
        batch.batches.newest.keep(batch.seq)

    LedgerBatch.committed = committed  # type: ignore[method-assign]  # a stand-in


def _unsynced_directories() -> None:
    """Of a node: the names in them."""

    def nothing(path: Path) -> None:
        del path

    durable.sync_directory = records.sync_directory = operations.sync_directory = nothing


def _early_written() -> None:
    """What is noted or told as written through is not."""

    def nothing(fd: int) -> None:
        del fd

    records.sync_file_system = manifest.sync_file_system = nothing


def _soft_contract() -> None:
    """What came by the contract is written as what came from a server that knows boots."""
    prepare = operations._prepare
    operations._prepare = lambda *given: replace(prepare(*given), through=False)


def _any_boot(take_up: TakeUp) -> TakeUp:
    """A start goes on in another boot of the machine as in the same."""
    return lambda item, **how: take_up(item, **{**how, "boot": item.boot})


def _unmarked(take_up: TakeUp) -> TakeUp:
    """What had ended is offered in another boot, whether it is noted as written through or not."""
    return lambda item, **how: take_up(item, **{**how, "written": True})


CONTROLS: Final = {
    "soft-attempts": _soft_attempts,
    "soft-uploads": _soft_uploads,
    "no-reserved-numbers": _no_reserved_numbers,
    "unsynced-names": _unsynced_names,
    "early-notes": _early_notes,
}
"""What is broken, by the name of it."""
OF_NODES: Final = {
    "unsynced-directories": _unsynced_directories,
    "early-written": _early_written,
    "soft-contract": _soft_contract,
}
OF_STARTS: Final = {"any-boot": _any_boot, "unmarked": _unmarked}
"""Of nodes that begin after a cut."""

if __name__ == "__main__":
    {**CONTROLS, **OF_NODES}[sys.argv[1]]()
    del sys.argv[:2]
    from orchestrator.cli import main

    main()
