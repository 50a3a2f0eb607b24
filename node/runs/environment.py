"""What of the node's environment its scripts see: nothing but what is named here or by the settings.

A node's environment has secrets in it (clouds, databases), and variables that change what a script does
(`SHELLOPTS`, `LD_PRELOAD`, `PYTHONPATH`): a script sees the same on every node unless somebody has said
otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from node.script_settings import FOR_EVERY_BASH, RESERVED, SCRIPT_ENV
from node.settings import VARIABLES, NodeSettings

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL: Final = "/bin/bash"
_UTF8: Final = re.compile(r".*\.utf-?8(@.*)?", re.IGNORECASE)
_FOR_THE_NODE: Final = frozenset({*VARIABLES, "DB_PATH"})


def job_environment(environ: Mapping[str, str], settings: NodeSettings, service: str) -> dict[str, str]:
    """The variables of every script of a service, but for those that differ from job to job.

    `PATH`, `TZ` and the locale are the node's, the latter only if it is one of UTF-8. `pass_env` and what is
    granted add what they name; a glob takes neither what is meant for the node nor what would change every
    bash. `job_env` comes on top.
    """
    names = (*(settings.pass_env or ()), *settings.grants_of(service).env)
    locale = {name: value for name, value in environ.items() if name == "LANG" or name.startswith("LC_")}
    found = {name: value for name, value in locale.items() if _UTF8.fullmatch(value)}
    if not {"LANG", "LC_ALL"} & found.keys():
        found["LANG"] = "C.UTF-8"
    if "TZ" in environ:
        found["TZ"] = environ["TZ"]
    return {
        **found,
        "PYTHONUNBUFFERED": "1",
        # Without it each bash would ask who its user is, and read the machine's accounts for that.
        "SHELL": _SHELL,
        **{name: value for name, value in environ.items() if any(_takes(one, name) for one in names)},
        "PATH": environ.get("PATH", _PATH),
        **settings.job_env,
    }


def _takes(pattern: str, name: str) -> bool:
    if name in _FOR_THE_NODE or name.startswith((*RESERVED, SCRIPT_ENV)):
        return False
    return pattern == name or (name not in FOR_EVERY_BASH and fnmatchcase(name, pattern))
