"""What is settled before the actors start: locks, keys, ids that are never given twice."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.domain.job import Job
from actors.ports.ledger import LedgerError
from actors.ports.storage import StorageError
from actors.wire.http.tls import NoAuthorities, NoCertificate, OwnCertificate, authorities_of
from orchestrator.access.token_files import BadTokensFile, read_declared
from orchestrator.callbacks.keys import (
    SECRET_FILE,
    BadSecret,
    KeyFileError,
    check_secrets,
    load_secrets,
    load_trust,
)
from orchestrator.config.settings import Settings
from orchestrator.errors import StartError
from orchestrator.ledger.id_blocks import IdBlocks
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.storage.storage import DiskStorage

log: Final = logging.getLogger("orchestrator")
jobs_log: Final = logging.getLogger("orchestrator.jobs")


_PAGE: Final = 200


class Address:
    """Where nodes of this machine reach the server, once it listens."""

    def __init__(self) -> None:
        self._url = ""
        self._known = trio.Event()

    def set(self, url: str) -> None:
        """`url` may name all interfaces; the loopback one is among them."""
        self._url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        self._known.set()

    async def get(self) -> str:
        await self._known.wait()
        return self._url


async def go_on_from(ledger: SqliteLedger, storage: DiskStorage) -> None:
    """Never give an id twice, also with a ledger that was restored from an older copy: what stands beside the
    files knows better. What that ledger does not know is kept (see `actors.cleaner`), also where a crash came
    before its id was noted. Raises LedgerError, StorageError."""
    known = await ledger.max_id()
    reserved, last = await storage.last_id()
    begun = reserved if last is None else last
    restored = await ledger.reserved_ids() < reserved if last is None else known < last
    if restored:
        log.error(
            "the ledger ends at job %d, and ids were given up to %d: it was restored from an older copy; "
            "ids go on from there, and directories of jobs that it does not know are kept",
            known,
            begun,
        )
        keys = [key for key, _ in await storage.directories()]
        for start in range(0, len(keys), _PAGE):
            await storage.note_unknown(await ledger.unknown_directories(keys[start : start + _PAGE]))
    await ledger.jump_ids(begun + 1)
    if restored:
        await ledger.reserve_ids(reserved)  # only now: from here on it does not look like a restored one

    async def reserve(upto: int) -> None:
        await ledger.reserve_ids(upto)
        # Only now: from here on a ledger that does not know it is an older copy.
        await storage.note_last_id(upto)

    ledger.ids = IdBlocks(max(known, begun), reserve)


async def end_orderly(ledger: SqliteLedger, storage: DiskStorage) -> None:
    """Note which id was the last, so that the next start goes on right behind it."""
    if ledger.ids is None:
        return  # it has not begun
    try:
        await storage.note_last_id(await ledger.reserved_ids(), await ledger.max_id())
    except (LedgerError, StorageError) as error:
        log.warning("ids will go on with a gap: %s", error)


def callback_keys(settings: Settings) -> tuple[Sequence[str], ssl.SSLContext | None]:
    """What callbacks are signed with, and who is believed; nothing where they are off. Raises StartError.

    No secret is made in the place of a damaged one: receivers would refuse what it signs. Where the file is
    our own, callbacks wait until it was put right; one that the settings name is a mistake in them."""
    if not settings.callback_hosts:
        return (), None
    try:
        trust = load_trust(settings.callback_ca_file)
        return load_secrets(settings.callback_secret_file), trust
    except BadSecret as error:
        if settings.callback_secret_file != settings.data_path / SECRET_FILE:
            raise StartError(str(error)) from error
        log.error("%s. Callbacks wait for that, and for the start after it", error)
        return (), trust
    except KeyFileError as error:
        raise StartError(str(error)) from error


def own_certificate(settings: Settings) -> OwnCertificate | None:
    """What the server shows of itself, if it speaks TLS. Blocks. Raises StartError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        return OwnCertificate(settings.tls_cert, settings.tls_key, time.monotonic, log.error)
    except NoCertificate as error:
        raise StartError(f"tls_cert, tls_key: {error.detail}") from error


def trust_in_nodes(settings: Settings) -> ssl.SSLContext | None:
    """Whose certificates of nodes are believed; None: the usual authorities'. Blocks. Raises StartError."""
    if settings.node_ca_file is None:
        return None
    try:
        return authorities_of(settings.node_ca_file)
    except NoAuthorities as error:
        raise StartError(f"node_ca_file: {settings.node_ca_file} cannot be read: {error.detail}") from error


def find_mistakes(settings: Settings) -> list[str]:
    """What is wrong with the files that the settings name, as far as looking tells it: nothing is made.
    Blocks."""
    mistakes = []
    for look in (own_certificate, trust_in_nodes, _read_tokens, _check_secrets, _trust_in_receivers):
        try:
            look(settings)
        except (StartError, BadTokensFile, KeyFileError) as error:
            mistakes.append(str(error))
    return mistakes


def _check_secrets(settings: Settings) -> None:
    # The file of our own is made with the data.
    if settings.callback_hosts and settings.callback_secret_file != settings.data_path / SECRET_FILE:
        check_secrets(settings.callback_secret_file)


def _trust_in_receivers(settings: Settings) -> None:
    load_trust(settings.callback_ca_file)


def _read_tokens(settings: Settings) -> None:
    if settings.tokens_file is not None:
        read_declared(settings.tokens_file, settings.services)


def log_steps(jobs: Sequence[Job], name_of: Callable[[str], str]) -> None:
    """A line for each step of each job, at the level debug. `name_of` gives the name of a node."""
    if not jobs_log.isEnabledFor(logging.DEBUG):
        return
    for job in jobs:
        attempt = job.attempt
        about = {"job": job.id, "user": job.user_id, "service": job.service, "status": job.status.value}
        if attempt is not None:
            about |= {"node": attempt.node_id, "attempt": attempt.key}
        if job.request_id:
            about["request"] = job.request_id
        where = "" if attempt is None else f" on node {name_of(attempt.node_id)} by attempt {attempt.key}"
        jobs_log.debug(
            "job %d of user %d for %s is %s%s: %s",
            job.id,
            job.user_id,
            job.service,
            job.status.value,
            where,
            job.message,
            extra=about,
        )
