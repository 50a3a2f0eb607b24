"""What holds of a node from one heartbeat to the next."""

from __future__ import annotations

import random
from typing import Any

import pytest

from actors.domain.node import NodeRef
from actors.domain.service import ServiceLimits
from actors.ports.nodes import Beat, Picture
from orchestrator.api.serializers import render_node
from orchestrator.client import Node
from orchestrator.commands.nodes import tell_executors
from orchestrator.contract.codec import from_json
from orchestrator.nodes.native.events import LIMITS_MOST, Beats, parse_event
from orchestrator.scheduling.service_pool import ServicePool

PICTURE = {"incarnation": "i", "sequence": 1, "payloads": [], "heartbeat": {"load": 0.0, "held": {}}}


def hear(*events: tuple[str, dict[str, Any]]) -> list[tuple[str, str]]:
    beats, heard = Beats(), []
    for kind, event in events:
        told = parse_event(kind, event, "owner")
        assert told is not None
        judged = beats.judge(told)
        assert isinstance(judged, Picture | Beat)
        heard.append((judged.heartbeat.executor, judged.heartbeat.executor_limits))
    return heard


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ({"name": "bash", "limits": "Nothing is kept."}, ("bash", "Nothing is kept.")),
        ({"name": 5, "limits": "x" * 5000}, ("", "x" * LIMITS_MOST)),
        ("bash", ("", "")),
    ],
)
def test_what_the_picture_says_of_the_executor_holds_for_the_heartbeats_after_it(
    said: object, known: tuple[str, str]
) -> None:
    picture, beat = {**PICTURE, "executor": said}, {"heartbeat": PICTURE["heartbeat"]}
    assert hear(("picture", picture), ("heartbeat", beat)) == [known, known]
    assert hear(("picture", picture), ("picture", PICTURE))[1] == ("", ""), "an older one says nothing"


def test_what_a_node_s_scripts_are_kept_from_is_shown() -> None:
    said = {**PICTURE, "executor": {"name": "bash", "limits": "Nothing is kept."}}
    told = parse_event("picture", said, "owner")
    assert isinstance(told, Picture)
    pool = ServicePool({"example": ServiceLimits("example")}, random.Random(1))
    for name in ("a", "b"):
        pool.seen(NodeRef(name, f"http://{name}"), told.heartbeat, 0.0)
    nodes = [render_node(view, 0.0) for view in pool.views(0.0)]
    assert [(one["executor"], one["executor_limits"]) for one in nodes] == [("bash", "Nothing is kept.")] * 2
    shown = [from_json(Node, {**one, "name": f"gpu-{number}"}) for number, one in enumerate(nodes * 4)]
    assert list(tell_executors(shown)) == [
        "gpu-0, gpu-1, gpu-2, gpu-3, gpu-4 and 3 more: scripts run in bash: Nothing is kept."
    ]
    assert list(tell_executors([from_json(Node, {**nodes[0], "executor": None})])) == []
