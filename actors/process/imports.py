"""Imports of whole libraries at the start of a process."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """What is imported within stays for good: the collector looks through it neither meanwhile, which is a
    tenth of a start, nor later."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def without(name: str) -> Iterator[None]:
    """Within, this module cannot be imported: for a library that does without it if need be, and that imports
    much with it that is used nowhere here."""
    if name in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[name] = None  # which says to an import that there is none
    try:
        yield
    finally:
        del modules[name]
