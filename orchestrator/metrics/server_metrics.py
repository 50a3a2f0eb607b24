"""All that the server counts."""

from __future__ import annotations

from collections.abc import Collection

from actors.metrics.process import ProcessMetrics
from actors.metrics.tallies import Spreads
from orchestrator.metrics.job_flow import JobFlow


class ServerMetrics(ProcessMetrics):
    """`services`: those of the settings."""

    def __init__(self, services: Collection[str] = ()) -> None:
        super().__init__("orchestrator")
        self.jobs = JobFlow(services, self.registry)
        self._commits = Spreads(
            self.registry,
            "orchestrator_ledger_commit_seconds",
            "Time of a commit of the ledger, with its sync.",
            (0.001, 0.005, 0.02, 0.1, 0.5, 2.0),
        ).of()
        self._batches = Spreads(
            self.registry,
            "orchestrator_ledger_commit_items",
            "Writes that went into a commit of the ledger.",
            (1, 4, 16, 64, 256, 1000),
        ).of()

    def note_commit(self, seconds: float, items: int) -> None:
        self._commits.add(seconds)
        self._batches.add(items)
