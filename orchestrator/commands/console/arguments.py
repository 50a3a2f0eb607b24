"""How jobs, nodes and times are named in arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from actors.domain.ids import MAX_ID

if TYPE_CHECKING:
    from orchestrator.client import Client, Node

JOB: Final = click.IntRange(1, MAX_ID)
"""The id of a job."""
SHORT: Final = 12
"""Characters of a node's id that are shown where room is short, if they tell it from the others."""


def node_id(client: Client, wanted: str) -> str:
    """The id of the node with this name, this id, this beginning of it, or this URL. Raises BadInput if there
    is none, or more than one."""
    from orchestrator.client import BadInput

    nodes = client.nodes()
    exact = [
        node.id
        for node in nodes
        if wanted in (node.name, node.id) or wanted.rstrip("/") == node.url.rstrip("/")
    ]
    found = exact or [node.id for node in nodes if wanted and node.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    what = "fits several nodes" if found else "is no node"
    raise BadInput(f"{wanted!r} {what}; `orchestrator nodes` lists them")


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """A time such as 12h, for an option's callback."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", value, re.ASCII)
    if found is None or not int(found[1]):
        raise click.BadParameter(f"{value!r}: a time such as 12h, 90d or 52w was expected")
    return float(int(found[1]) * _UNITS[found[2]])


def shown_names(nodes: Sequence[Node]) -> list[str]:
    """Each node's name; of the id of one that has none so much that it tells this node alone."""
    ids = [node.id for node in nodes]
    length = SHORT
    while len({one[:length] for one in ids}) < len(set(ids)):
        length += 1
    return [node.name if node.name not in ("", node.id) else node.id[:length] for node in nodes]
