"""What the scripts of a service may reach besides their own directory and the software of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Grants:
    """What is added to what every script may do.

    `read`, `write`: files and directories, absolute. `env`: names and patterns of the node's variables that
    scripts see. `groups`: names of groups that they belong to. `network`: they reach what the node reaches.
    `containers`: they may make namespaces and mounts, as Apptainer does. `devices`: names of bundles of
    devices, as `nvidia`.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    env: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    network: bool = False
    containers: bool = False
    devices: tuple[str, ...] = ()


NOTHING_GRANTED: Final = Grants()
