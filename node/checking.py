"""What can be said of a node's settings without a start: what is wrong with the files that they name, and
what it would run with."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Final

from actors.wire.http.tls import NoCertificate, OwnCertificate
from node.errors import NodeError
from node.runs.sight import show_grants
from node.settings import SETTINGS, NodeSettings

log: Final = logging.getLogger("node")

_ALWAYS: Final = ("host", "port", "data", "executor", "slots")
"""What is told of the settings also where nobody has set it."""
_SECRET: Final = ("token", "pair_token", "metrics_token", "proxy", "machine", "job_env")


def load_certificate(settings: NodeSettings) -> OwnCertificate | None:
    """What the node shows of itself, if it speaks TLS. Blocks. Raises NodeError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        return OwnCertificate(settings.tls_cert, settings.tls_key, time.monotonic, log.error)
    except NoCertificate as error:
        raise NodeError(f"--tls-cert, --tls-key: {error.detail}") from error


def find_mistakes(settings: NodeSettings) -> list[str]:
    """What is wrong with what the settings name, as far as looking tells it: nothing is made. Blocks."""
    mistakes = []
    for look in (load_certificate, _look_for_authorities, _look_for_slurm):
        try:
            look(settings)
        except NodeError as error:
            mistakes.append(str(error))
    return mistakes


def _look_for_authorities(settings: NodeSettings) -> None:
    if settings.ca_file is not None:
        # Late: it brings an HTTP client.
        from node.host.joining import load_trust

        load_trust(settings)


def _look_for_slurm(settings: NodeSettings) -> None:
    if settings.executor == "slurm":
        # Late: most nodes have no batch system.
        from node.executors.slurm.commands import find_commands

        find_commands(os.environ)


def describe(settings: NodeSettings) -> Iterator[str]:
    """A line for each setting that is not as it is without anybody's doing, and for each service what its
    scripts may. Secrets are not shown."""
    for field in fields(NodeSettings):
        name, value = field.name, getattr(settings, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if name in SETTINGS and (name in _ALWAYS or value != default):
            yield f"{name}: {'(is set)' if name in _SECRET else _show(value)}"
    yield f"scripts may: {show_grants(settings.grants)}"
    for name in dict.fromkeys((*settings.join_services, *settings.services)):
        if not settings.join_services or name in settings.join_services:
            yield f"scripts of {name} may: {show_grants(settings.grants_of(name))}"


def _show(value: object) -> str:
    if value is None:
        return "whatever is sent"  # slots alone: nothing else is told unless it is set
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={text}" if text else str(key) for key, text in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
