"""What a failed script said last, read for its reason: what it did not find, and what it is kept from.

Nothing here is certain: a script may say what it likes. So a hint tells what was said, what holds on this
node, and which setting of the node would change that. Whether a path exists where scripts do not see it is
never told.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from actors.wire.files.names import printable
from node.confinement.visible import Unseen
from node.executors.executor import WORK
from node.runs.sight import Sight, is_in

_TAIL: Final = 16 * 1024
"""Bytes of the end of what it said."""
_LINES: Final = 20
_LONGEST: Final = 1000
"""Characters of a line."""
_NOT_FOUND: Final = re.compile(
    r"(?:^|[\s:])(?P<name>[^\s:/'\"‘’]{1,100}): (?:command )?not found$"
    r"|^(?:/usr/bin/)?env: ['‘](?P<env>[^\s/'’]{1,100})['’]: No such file or directory$"
    r"|command not found: (?P<zsh>[^\s:/]{1,100})$"
    r"|No such file or directory: '(?P<python>[^\s/']{1,100})'$"
)
_LIBRARY: Final = re.compile(
    r"error while loading shared libraries: (?P<name>[^\s:]{1,100}): cannot open shared object file"
)
_INTERPRETER: Final = re.compile(r"(?P<path>/[^\s:]{1,300}): bad interpreter: ")
_PATH: Final = re.compile(
    r"(?<!\w)'[^'/]{0,300}/[^']{0,300}'|\"[^\"/]{0,300}/[^\"]{0,300}\"|‘[^’/]{0,300}/[^’]{0,300}’"
    r"|[^\s:,;()<>'\"‘’/]{0,300}/[^\s:,;()<>'\"‘’]{0,300}"
)
"""Anything with a slash, be it absolute or not; one that is quoted may have spaces."""
_MISSING, _DENIED, _READ_ONLY, _NOT_PERMITTED = (
    "No such file or directory",
    "Permission denied",
    "Read-only file system",
    "Operation not permitted",
)
_REFUSALS: Final = (_MISSING, _DENIED, _READ_ONLY, _NOT_PERMITTED)
_WRITES: Final = re.compile(r"cannot (?:create|touch|remove|move)|mkdir|makedirs", re.IGNORECASE)
_NO_NETWORK: Final = (
    "Network is unreachable",
    "Temporary failure in name resolution",
    "Temporary failure resolving",
    "Could not resolve host",
    "unable to resolve host",
    "Connection refused",
    "Name or service not known",
    "Address family not supported by protocol",
    "socket() failed with errno=97",  # the same, as Open MPI says it
)
_OF_CONTAINERS: Final = re.compile(r"apptainer|singularity|unshare|user.?namespace|\bmount", re.IGNORECASE)
_TEMPORARY: Final = frozenset(("/tmp", "/var/tmp"))
_OF_THE_SYSTEM: Final = ("/etc", "/proc", "/sys", "/dev", "/run", "/var/run")
"""What nobody is advised to open."""
_PREFIX: Final = re.compile(r"(/[^/]+/[^/]+/.+?)/(?:bin|sbin|condabin|envs|lib|lib64|libexec|share)/")
_OF_MODULES: Final = frozenset(("module", "ml"))


def read_tail(log: Path) -> str:
    """The end of a log, "" where there is none; blocks. A script may have put something else in its place."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return ""
        tail = os.pread(descriptor, _TAIL, max(0, about.st_size - _TAIL))
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return tail.decode(errors="replace")


def explain(exit_code: int, said: str, directory: Path, sight: Sight) -> str:
    """What may be the reason, as what it `said` at its end tells it; "" if that tells none. `directory`: the
    payload's own."""
    lines = [line.strip()[-_LONGEST:] for line in said.splitlines() if line.strip()][-_LINES:]
    for line in reversed(lines):
        if hint := _explain_line(line, str(directory), sight):
            return hint
    if exit_code == 127:
        return "bash ends so when it does not find a program"
    if exit_code == 126:
        return "bash ends so when what it is to run is no program, or may not be run"
    return ""


def _explain_line(line: str, own: str, sight: Sight) -> str:
    if found := _NOT_FOUND.search(line):
        name = next(filter(None, found.groups()))
        if not found["python"] or _find_unseen(name, sight) is not None:
            return _program(name, sight)
    if found := _LIBRARY.search(line):
        return _library(found["name"], sight)
    if found := _INTERPRETER.search(line):
        path = found["path"]
        hidden = (
            "" if sight.shows(path) else f", which scripts do not see: {_setting('read', _find_whole(path))}"
        )
        return f"a script's interpreter was not found: {printable(path)}{hidden}"
    lower = line.lower()
    if sight.view is not None and (kept := _explain_rights(line, lower, sight)):
        return kept
    said = next((each for each in _REFUSALS if each.lower() in lower), None)
    if said is None:
        return ""
    at = lower.index(said.lower())
    path = _find_path(line[:at], line[at + len(said) :])
    if path is None:
        return ""
    work = f"{own}/{WORK}"
    if said == _DENIED and _lacks_execution(os.path.join(work, path), work):
        return _not_executable(path, work)
    if not path.startswith("/"):
        return f"it said {said!r} of {printable(path)}"
    path = os.path.normpath(path)
    # What is in its own directory it may: that has another reason.
    if sight.view is None or is_in(path, (own,)):
        return ""
    if is_in(path, (os.path.dirname(own), *_OF_THE_SYSTEM)):
        return (
            "" if said == _MISSING else f"it said {said!r} of {printable(path)}, which scripts are kept from"
        )
    return _refused_path(said, path, bool(_WRITES.search(line)), sight)


def _explain_rights(line: str, lower: str, sight: Sight) -> str:
    """Of what no path is refused for: rights, the network, namespaces."""
    if "no new privileges" in lower:
        return "no program gains rights in a script, as sudo and su do"
    unreached = next((each for each in _NO_NETWORK if each.lower() in lower), None)
    if unreached is not None and not sight.grants.network:
        return f"it said {unreached!r}; scripts have no network unless the node's settings say network = true"
    contained = _NOT_PERMITTED.lower() in lower and _OF_CONTAINERS.search(line) is not None
    if contained and not sight.grants.containers:
        return (
            f"it said {_NOT_PERMITTED!r}; scripts make no namespaces and mounts unless the node's settings"
            " say containers = true"
        )
    return ""


def _lacks_execution(path: str, work: str) -> bool:
    """Whether this is a file in the job's directory that its script may read and write, but not run. What a
    link of the script leads to elsewhere is not looked at."""
    real = os.path.realpath(path)
    if not is_in(real, (os.path.realpath(work),)):
        return False
    try:
        mode = os.lstat(real).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o711 == 0o600


def _not_executable(path: str, work: str) -> str:
    name = os.path.normpath(path).removeprefix(f"{work}/")
    instead = f", or say bash {name}" if name.endswith(".sh") and name.isprintable() else ""
    return f"{printable(path)} is not executable, as no uploaded file is: chmod +x it in run.sh{instead}"


def _program(name: str, sight: Sight) -> str:
    said = f"{printable(name)} was not found"
    if name in _OF_MODULES:
        return (
            f"{said}: it is a function that scripts have when they source the file of environment modules, as"
            " /etc/profile.d/modules.sh"
        )
    if there := _find_unseen(name, sight):
        return (
            f"{said}: it is in {printable(there.directory)}, and scripts do not see it there:"
            f" {_setting('read', there.read)}"
        )
    return f"{said} in what scripts see of PATH" if sight.view is not None else f"{said} in PATH"


def _find_unseen(name: str, sight: Sight) -> Unseen | None:
    return next((each for each in sight.unseen if name in each.programs), None)


def _library(name: str, sight: Sight) -> str:
    said = f"the library {printable(name)} was not found"
    if "LD_LIBRARY_PATH" in sight.unpassed:
        return (
            f'{said}; the node\'s LD_LIBRARY_PATH is not passed to scripts: env = ["LD_LIBRARY_PATH"] would'
        )
    return f"{said} where programs look for one"


def _find_path(before: str, after: str) -> str | None:
    """The path that a refusal is about, as it is said: what follows it, as Python says it, or what comes
    before."""
    for part, index in ((after, 0), (before, -1)):
        found = [each[0].strip("'\"‘’") for each in _PATH.finditer(part)]
        if found:
            return found[index]
    return None


def _refused_path(said: str, path: str, writes: bool, sight: Sight) -> str:
    about = f"it said {said!r} of {printable(path)}"
    if is_in(path, map(str, (*sight.grants.read, *sight.grants.write))):
        if said == _MISSING:
            return ""
        return f"{about}; the node grants it, but its mode, or one of a directory above, closes it to scripts"
    if not sight.shows(path):
        private = sight.view.private if sight.view is not None else frozenset()
        if is_in(path, _TEMPORARY) and not is_in(path, private - _TEMPORARY):
            return f"{about}; scripts have $TMPDIR in its place"
        key = "write" if writes or said == _READ_ONLY else "read"
        return (
            f"{about}; scripts do not see it: {_setting(key, path if key == 'write' else _find_whole(path))}"
        )
    if said == _MISSING:
        return ""
    return f"{about}; scripts only read there, what everybody may: {_setting('write', path)}"


def _find_whole(path: str) -> str:
    """Of a file in a prefix, as conda makes one, the prefix: a program needs what is beside it."""
    found = _PREFIX.match(path)
    return path if found is None else found[1]


def _setting(key: str, path: str) -> str:
    shown = path if path.isprintable() and '"' not in path and "\\" not in path and len(path) <= 200 else "…"
    return f'{key} = ["{shown}"] in the node\'s settings would allow it'
