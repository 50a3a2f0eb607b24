"""What of the node's environment its scripts see."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from node.settings import NodeSettings


def job_environment(passed: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """The variables of every script. `passed` is what the executor would pass by itself; of it `pass_env`
    chooses, `PATH` stays always, and `job_env` comes on top."""
    wanted = settings.pass_env
    return {
        **{
            name: value
            for name, value in passed.items()
            if wanted is None or name == "PATH" or any(fnmatchcase(name, pattern) for pattern in wanted)
        },
        **settings.job_env,
    }
