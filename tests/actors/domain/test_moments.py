"""What a node may have forgotten, by how far it had come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.domain.node import NodeRef, Tally

NOW = NodeRef("n", "http://n", boot="b 1", tally=Tally(5, 3, 100))


@pytest.mark.parametrize(
    ("then", "forgotten"),
    [
        (NOW, False),
        (replace(NOW, tally=Tally(4, 3, 90)), False),
        (replace(NOW, tally=Tally(6, 3, 90)), True),
        (replace(NOW, tally=Tally(4, 4, 90)), True),
        (replace(NOW, tally=Tally(4, 3, 101)), True),
        (replace(NOW, tally=None), False),
        (replace(NOW, boot="b", tally=Tally(1, 1, 1)), True),
        (replace(NOW, boot=""), False),
    ],
)
def test_another_boot_and_one_that_has_come_less_far_have_forgotten(then: NodeRef, forgotten: bool) -> None:
    assert NOW.has_forgotten(then.moment) is forgotten
    assert not replace(NOW, boot="").has_forgotten(then.moment)
    assert replace(NOW, tally=None).has_forgotten(then.moment) is (forgotten and then.boot == "b")
