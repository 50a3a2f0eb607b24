"""How long an answer may keep who asked waiting."""

from __future__ import annotations

from typing import Final

SILENCE: Final = 50.0
"""Seconds after which an answer has begun at the latest, if need be one that says to ask again: proxies, by
their defaults, take 60 s without a byte for a dead server."""
