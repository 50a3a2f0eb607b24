"""What differs between two readings of the settings, by the names that people know them by; and what of it
can change while the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final

from actors.domain.batch_request import BatchAllowance
from actors.domain.limits import LIMITS
from actors.domain.service import ServiceLimits
from orchestrator.config.settings import SERVER, Settings

LIVE: Final = frozenset({"services", *(name for name, setting in SERVER.items() if setting.live)})
"""Fields of the settings that change without a restart."""

_AS_SET: Final = {"addresses": "nodes", "as_2x": "open_contract"}
"""What a field is called in the settings, where that is another word."""


@dataclass(frozen=True, slots=True)
class Changes:
    """`settings`: what holds from now on. `made`: what of it is other than before; `after_restart`: what was
    read and holds only after one."""

    settings: Settings
    made: tuple[str, ...]
    after_restart: tuple[str, ...]


def find_changes(before: Settings, read: Settings) -> Changes:
    """From the settings that hold to those that were read."""
    differ = [
        field.name
        for field in fields(Settings)
        if field.name != "warnings" and getattr(before, field.name) != getattr(read, field.name)
    ]
    live = {name: getattr(read, name) for name in LIVE}
    made = [name for name in differ if name in LIVE and name != "services"]
    return Changes(
        replace(before, **live, warnings=read.warnings),
        (*made, *_of_services(before, read)),
        tuple(_AS_SET.get(name, name) for name in differ if name not in LIVE),
    )


def find_unmovable(before: Settings, read: Settings) -> list[str]:
    """Mistakes that are none at a start: what is still needed cannot go."""
    return [
        f"services.{name}: it is scaled, so it can go with a restart only"
        for name in sorted(before.scaling.keys() - read.services.keys())
    ]


def _of_services(before: Settings, read: Settings) -> Iterator[str]:
    for name in sorted(before.services.keys() | read.services.keys()):
        was, now = before.services.get(name), read.services.get(name)
        if was is None:
            yield f"services.{name} (new)"
        elif now is None:
            yield f"services.{name} (gone)"
        else:
            yield from (f"services.{name}.{key}" for key in _of_service(was, now))


def _of_service(was: ServiceLimits, now: ServiceLimits) -> Iterator[str]:
    for field in fields(ServiceLimits):
        old, new = getattr(was, field.name), getattr(now, field.name)
        if field.name == "limits":
            yield from (key for key, limit in LIMITS.items() if getattr(old, limit) != getattr(new, limit))
        elif field.name == "batch_allowed":
            keys = (one.name for one in fields(BatchAllowance))
            yield from (key for key in keys if getattr(old, key) != getattr(new, key))
        elif old != new:
            yield _AS_SET.get(field.name, field.name)
