"""All that the server counts."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import Histogram

from actors.metrics.process import ProcessMetrics
from orchestrator.metrics.job_flow import JobFlow


class ServerMetrics(ProcessMetrics):
    """`services`: those of the settings."""

    def __init__(self, services: Collection[str] = ()) -> None:
        super().__init__("orchestrator")
        self.jobs = JobFlow(services, self.registry)
        self._commits = Histogram(
            "orchestrator_ledger_commit_seconds",
            "Time of a commit of the ledger, with its sync.",
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.0),
            registry=self.registry,
        )
        self._batches = Histogram(
            "orchestrator_ledger_commit_items",
            "Writes that went into a commit of the ledger.",
            buckets=(1, 4, 16, 64, 256, 1000),
            registry=self.registry,
        )

    def note_commit(self, seconds: float, items: int) -> None:
        self._commits.observe(seconds)
        self._batches.observe(items)
