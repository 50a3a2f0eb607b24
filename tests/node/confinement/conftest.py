"""What tests of confinement share."""

from __future__ import annotations

from typing import Final

import pytest

from node.confinement.landlock import find_abi

KERNEL: Final = find_abi()


@pytest.fixture(params=[1, 4, 7])
def abi(request: pytest.FixtureRequest) -> int:
    asked = int(request.param)
    if asked > KERNEL:
        pytest.skip(f"this kernel has version {KERNEL}")
    return asked
