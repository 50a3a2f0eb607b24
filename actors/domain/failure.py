"""Why a job has failed, in one word."""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """EXIT_CODE, SIGNAL: how its script ended. MAX_RUNTIME to DISK: the limit that it was over, as an upload
    calls it; MEMORY also if the machine had no more. INVALID: it cannot run, as without `run.sh`. RESULTS:
    it ended well, and what it left cannot be had. BATCH_SYSTEM: that refused it, or ended it. LOST: the node
    stopped, or its machine went down. NODE: another fault there, as that it could not start it. NOT_RUN: no
    node has told an end, or one that it gives the attempt back."""

    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    MAX_RUNTIME = "max_runtime"
    MEMORY = "memory"
    CPU_TIME = "cpu_time"
    FILE_SIZE = "file_size"
    DISK = "disk"
    INVALID = "invalid"
    RESULTS = "results"
    BATCH_SYSTEM = "batch_system"
    LOST = "lost"
    NODE = "node"
    NOT_RUN = "not_run"
