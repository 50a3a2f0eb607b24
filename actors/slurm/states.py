"""The states that Slurm tells of a job, and what its commands may see of our environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

WAITING: Final = frozenset(
    {
        "CONFIGURING",
        "PENDING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
    }
)
ENDED: Final = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)
TAKEN_AWAY: Final = frozenset(
    {"BOOT_FAIL", "LAUNCH_FAILED", "NODE_FAIL", "PREEMPTED", "RECONFIG_FAIL", "REVOKED"}
)
"""Ends that say nothing of the job: its machines were taken away, or never there."""
_SEEN: Final = frozenset({"HOME", "LOGNAME", "PATH", "SHELL", "TZ", "USER", "KRB5CCNAME", "XDG_RUNTIME_DIR"})


def bare_state(told: str) -> str:
    """The state in what Slurm prints, as `CANCELLED by 1000` and `RUNNING+`; empty where there is none."""
    word = re.match(r"[A-Z_]*", told)
    return word[0] if word is not None else ""


def read_reason(told: str) -> str:
    """Why it is in its state, empty where Slurm gives no reason; at most 100 characters."""
    reason = told.strip()
    return "" if reason in ("None", "(null)") else reason[:100]


def slurm_environment(environ: Mapping[str, str]) -> Mapping[str, str]:
    """What its commands are to have of ours: Slurm hands on to the batch job all that `sbatch` has, and ours
    may hold secrets. They speak English, whatever is spoken here."""
    kept = {name: value for name, value in environ.items() if name in _SEEN or name.startswith("SLURM_CONF")}
    return {**kept, "LC_ALL": "C"}
