"""How jobs and nodes are named in arguments."""

from __future__ import annotations

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
    """The id of the node with this id, this beginning of it, or this URL. Raises BadInput if there is none,
    or more than one."""
    from orchestrator.client import BadInput

    nodes = client.nodes()
    exact = [node.id for node in nodes if wanted == node.id or wanted.rstrip("/") == node.url.rstrip("/")]
    found = exact or [node.id for node in nodes if wanted and node.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    what = "fits several nodes" if found else "is no node"
    raise BadInput(f"{wanted!r} {what}; `orchestrator nodes` lists them")


def beginnings(nodes: Sequence[Node]) -> list[str]:
    """Of each node's id so much that it names this node alone."""
    ids = [node.id for node in nodes]
    length = SHORT
    while len({one[:length] for one in ids}) < len(set(ids)):
        length += 1
    return [one[:length] for one in ids]
