"""TLS: whose certificates are believed, where it is not the usual authorities', and what a server shows."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from actors.wire.errors import WireError

LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether a certificate was renewed."""


class NoAuthorities(WireError):
    """The file cannot be read as certificates; the text says why."""


class NoCertificate(WireError):
    """The files cannot be read as a certificate and its key; the text says why."""


def authorities_of(path: str | os.PathLike[str]) -> ssl.SSLContext:
    """The authorities of this PEM file alone. Raises NoAuthorities."""
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise NoAuthorities(_reason(error)) from error


class OwnCertificate:
    """What a server shows of itself, of two PEM files: the certificate with those that it hangs from, and its
    key. A renewed one is taken up by the next connection; one that cannot be read is not, and `complain`
    hears of it each time that the files change."""

    def __init__(
        self, cert: Path, key: Path, now: Callable[[], float], complain: Callable[[str], None]
    ) -> None:
        """Blocks. Raises NoCertificate."""
        self._files = cert, key
        self._now = now
        self._complain = complain
        self._looked = now()
        self._seen = self._look()
        self._shown = self._load()

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        if self._now() >= self._looked + LOOK_EVERY:
            self._looked = self._now()
            if (seen := self._look()) != self._seen:
                self._seen = seen
                try:
                    self._shown = self._load()
                except NoCertificate as error:
                    self._complain(f"the certificate from before is shown on: {error.detail}")
        return self._shown

    def _look(self) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for path in self._files:
            try:
                status = path.stat()
            except OSError:
                found.append((0,))
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Debian's Python leaves this to the machine's OpenSSL alone.
        context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        context.set_alpn_protocols(["http/1.1"])
        cert, key = self._files

        def no_passphrase() -> str:
            raise ValueError("the key has a passphrase")

        try:
            context.load_cert_chain(cert, key, no_passphrase)
        except (OSError, ValueError) as error:
            raise NoCertificate(f"{cert}, {key}: {_reason(error)}") from error
        return context


def _reason(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
