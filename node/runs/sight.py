"""What scripts see of this machine and of the node's environment, and what of both they may want and lack."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from actors.domain.phrases import name_some
from node.confinement.grants import NOTHING_GRANTED, Grants
from node.confinement.visible import MachineFiles, Unseen, View, find_unseen
from node.runs.environment import job_environment
from node.settings import NodeSettings

_OF_A_HOME: Final = ("bin", ".local/bin", "miniconda3/bin", "miniforge3/bin", "anaconda3/bin", ".pyenv/shims")
"""Where people have programs that the `PATH` of a service does not name."""
_WANTED: Final = (
    "BASH_ENV",
    "CONDA_PREFIX",
    "CUDA_VISIBLE_DEVICES",
    "GMXLIB",
    "JAVA_HOME",
    "LD_LIBRARY_PATH",
    "LMOD_CMD",
    "MODULEPATH",
    "MODULESHOME",
    "PERL5LIB",
    "PYTHONPATH",
    "R_LIBS",
)
"""Variables that programs of scripts look for, where they are set."""
_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Sight:
    """What the scripts of a service see and may. `view` None: all that the node sees, and they are kept from
    nothing. `unseen`: what of the node's `PATH` they do not see. `unpassed`: variables of the node that
    programs look for, and that they do not have."""

    view: View | None = None
    grants: Grants = NOTHING_GRANTED
    unseen: tuple[Unseen, ...] = ()
    unpassed: tuple[str, ...] = ()

    def shows(self, path: str) -> bool:
        """Whether an absolute path leads to where scripts read, be there something or not."""
        granted = [str(each) for each in (*self.grants.read, *self.grants.write)]
        if self.view is None or is_in(path, granted):
            return True
        # Only links in places that are no secret are looked at.
        return not is_in(path, self.view.private) and self.view.shows(
            os.path.realpath(path), _real(self.grants)
        )


def is_in(path: str, directories: Iterable[str]) -> bool:
    return any(path == each or path.startswith(f"{each.rstrip('/')}/") for each in directories)


def find_sight(environ: Mapping[str, str], settings: NodeSettings, view: View | None, service: str) -> Sight:
    """What the scripts of a service see. Blocks: it looks at what is in `PATH` now."""
    grants = settings.grants_of(service)
    unseen: list[Unseen] = []
    if view is not None:
        home = environ.get("HOME", "")
        path = ":".join((environ.get("PATH", ""), *(f"{home}/{each}" for each in _OF_A_HOME)))
        unseen = find_unseen(MachineFiles(), path, view, view.private, _real(grants))
    passed = job_environment(environ, settings, service)
    unpassed = (name for name in _WANTED if environ.get(name) and name not in passed)
    return Sight(view, grants, tuple(unseen), tuple(unpassed))


def _real(grants: Grants) -> list[str]:
    return [os.path.realpath(path) for path in (*grants.read, *grants.write)]


def report(environ: Mapping[str, str], settings: NodeSettings, view: View | None) -> Iterator[str]:
    """A line for each thing that scripts may want and lack, with the setting that gives it; blocks. What one
    service is given is not missed."""
    for line in _report(environ, settings, view):
        yield line if line.isprintable() else line.encode("unicode_escape").decode()


def find_unjoined(settings: NodeSettings) -> list[str]:
    """A line for each service of the file that this node does not join for: its name may be misspelt."""
    joined, lines = settings.join_services, []
    for name in settings.services if joined else ():
        if name not in joined:
            near = difflib.get_close_matches(name, joined, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            lines.append(f"services.{name}: this node does not join for it, but for {_listed(joined)}{hint}")
    return lines


def tell_grants(settings: NodeSettings) -> Iterator[str]:
    """A line for each service of the file that this node is for: what its scripts may."""
    for name, grants in settings.services.items():
        if not settings.join_services or name in settings.join_services:
            yield f"scripts of {name} may: {show_grants(grants)}"


def show_grants(grants: Grants) -> str:
    """What they give, in words."""
    given = {field.name: getattr(grants, field.name) for field in fields(grants)}
    told = [key if value is True else f"{key} {_listed(value)}" for key, value in given.items() if value]
    return "; ".join(told) or "nothing besides"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _report(environ: Mapping[str, str], settings: NodeSettings, view: View | None) -> Iterator[str]:
    sights = [find_sight(environ, settings, view, name) for name in ("", *settings.services)]
    path = environ.get("PATH", "").split(":")
    for each in sights[0].unseen:
        # Those of homes are no mistake: nobody has named them.
        if each.directory in path and all(each in other.unseen for other in sights):
            yield (
                f"of PATH, scripts do not see {each.directory} ({name_some(each.programs, _MOST_NAMED)}): "
                f'to show it, read = ["{each.read}"]'
            )
    for large in () if view is None else view.left_out:
        if not any(is_in(large, _real(sight.grants)) for sight in sights):
            yield (
                f"scripts see nothing of {large}: it has too many files to be looked through; to show it,"
                f' read = ["{large}"]'
            )
    unpassed = [name for name in sights[0].unpassed if all(name in other.unpassed for other in sights)]
    if unpassed:
        named = ", ".join(f'"{name}"' for name in unpassed)
        yield f"scripts do not get {', '.join(unpassed)}, which this node has: to pass them, env = [{named}]"
    for name, grants in (("", settings.grants), *settings.services.items()):
        of = f" of {name}" if name else ""
        for key, paths in (("read", grants.read), ("write", grants.write)):
            for missing in paths:
                if not Path(missing).exists() and (not name or missing not in getattr(settings.grants, key)):
                    yield f"there is no {missing}, which scripts{of} may {key}"
