"""How nodes are called, for people to tell them apart: as each says itself, as a rule by its host's name; a
second of the same name gets `-2`.

A name stays with its node for as long as that is there, over restarts of both. Of a node that has left it is
remembered for the jobs that ran there, and for the node itself should it come back, until it is another's or
many have left since.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

import trio

from actors.domain.node import NodeName
from actors.ports.ledger import LedgerError

log: Final = logging.getLogger("orchestrator.nodes")

MOST_LEFT: Final = 1000
"""Nodes that have left and whose names are remembered."""
AGAIN: Final = 1.0
"""Seconds before what could not be stored is stored."""


class NameKeeper(Protocol):
    async def store_node_names(self, names: Iterable[NodeName], gone: Iterable[str]) -> None:
        """Keep these, and forget those of the nodes that are gone. Raises LedgerError."""
        ...


class NodeNames:
    """`known` are the names of earlier lives; `run` keeps what changes."""

    def __init__(self, known: Iterable[NodeName] = ()) -> None:
        self._of: dict[str, NodeName] = {}
        self._holders: dict[str, str] = {}
        """Id by name; of nodes that are there."""
        self._at: dict[str, str] = {}
        """Id by URL; of nodes that are there."""
        self._left: dict[str, None] = {}
        self._unsaved: dict[str, NodeName | None] = {}
        self._changed = trio.Event()
        for one in known:
            self._take_in(one)

    def of(self, node_id: str) -> str:
        """What people are told instead of the id; the id itself of a node that has no other name."""
        known = self._of.get(node_id)
        return node_id if known is None else known.name

    def find(self, name: str) -> str | None:
        """The id of the node that is called so, of those that are there."""
        return self._holders.get(name)

    def claim(self, node_id: str, said: str, url: str) -> None:
        """A node says how it wants to be called ("": it does not), and is at `url`: who was there before has
        left. Nothing is done for what is known."""
        known = self._of.get(node_id)
        if not said or (known is not None and not known.left and (known.said, known.url) == (said, url)):
            return
        before = self._at.get(url)
        if before is not None and before != node_id:
            self.release(before)
        kept = known is not None and known.said == said and self._holders.get(known.name, node_id) == node_id
        name = known.name if known is not None and kept else self._free(node_id, said)
        self._keep(NodeName(node_id, said, name, url))

    def release(self, node_id: str) -> None:
        """A node has left: another may be called so. Idempotent."""
        known = self._of.get(node_id)
        if known is not None and not known.left:
            self._keep(replace(known, left=True))

    def _free(self, node_id: str, said: str) -> str:
        name, number = said, 1
        while self._holders.get(name, node_id) != node_id:
            number += 1
            name = f"{said}-{number}"
        return name

    def _keep(self, one: NodeName) -> None:
        known = self._of.get(one.node_id)
        if known is not None and not known.left:
            del self._holders[known.name]
            del self._at[known.url]
        self._take_in(one)
        self._unsaved[one.node_id] = one
        for gone in list(self._left)[:-MOST_LEFT]:
            del self._left[gone], self._of[gone]
            self._unsaved[gone] = None
        self._changed.set()

    def _take_in(self, one: NodeName) -> None:
        self._of[one.node_id] = one
        self._left.pop(one.node_id, None)
        if one.left:
            self._left[one.node_id] = None
        else:
            self._holders[one.name] = one.node_id
            self._at[one.url] = one.node_id

    async def run(self, keeper: NameKeeper) -> None:
        """Keep names that have changed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            changed, self._unsaved = self._unsaved, {}
            try:
                await keeper.store_node_names(
                    [one for one in changed.values() if one is not None],
                    [node_id for node_id, one in changed.items() if one is None],
                )
            except LedgerError as error:
                log.warning("names of nodes are kept later: %s", error)
                self._unsaved = changed | self._unsaved
                self._changed.set()
                await trio.sleep(AGAIN)
