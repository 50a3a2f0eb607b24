"""Work that is cut off at one of its steps, as by the end of the machine's power."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest


class PowerCut(BaseException):
    """Nothing that comes after it is done."""


@contextmanager
def power_for(steps: int, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So many calls of these functions of `os` are done inside; the next raises PowerCut, and so do all that
    follow."""
    left = steps

    def counted(plainly: Any) -> Any:
        def step(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut
            return plainly(*arguments, **more)

        return step

    with monkeypatch.context() as patched:
        for name in names:
            patched.setattr(os, name, counted(getattr(os, name)))
        yield
