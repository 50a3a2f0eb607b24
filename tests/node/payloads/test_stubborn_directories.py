"""What a script of the node's own user has done to its payload's directory does not keep it from its end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.domain.job import End
from actors.domain.payload import Payload
from actors.domain.status import Status
from node.payloads.records import Records
from node.runs.manifest import ResultLimit, freeze_manifest, read_manifest

KEY = "a" * 32
RUNNING = Payload(
    key=KEY,
    id=1,
    job_id=1,
    n=1,
    service="x",
    user_id=1,
    owner="o",
    status=Status.RUNNING,
    sequence=0,
    created_at=0.0,
    max_runtime=0.0,
)
NOBODY = 65534


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory of somebody for whom modes count: not of root."""
    directory = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(directory, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(directory)


def locked(directory: Path) -> None:
    directory.chmod(0o500)


def closed(directory: Path) -> None:
    directory.chmod(0)


def removed(directory: Path) -> None:
    shutil.rmtree(directory)


def linked(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.symlink_to("/nowhere")


def taken_names(directory: Path) -> None:
    for name in ("record.json", "manifest.json", "running"):
        if not (directory / name).is_dir():
            (directory / name).unlink(missing_ok=True)
            (directory / name / "in").mkdir(parents=True)


WAYS = [locked, closed, removed, linked, taken_names]


@pytest.mark.parametrize("spoil", WAYS)
def test_an_end_is_frozen_and_recorded_all_the_same(data: Path, spoil: Callable[[Path], None]) -> None:
    records = Records(data, boot="b")
    try:
        directory = records.directory(KEY)
        (directory / "work").mkdir(parents=True)
        (directory / "work" / "a").write_bytes(b"12345")
        records.write(replace(RUNNING, status=Status.PREPARED))
        spoil(directory)
        kept = spoil not in (removed, linked)
        assert freeze_manifest(directory, ResultLimit(1 << 30, 100)).size == (5 if kept else 0)
        assert len(read_manifest(directory, frozen=True)[0]["entries"]) == (1 if kept else 0)
        spoil(directory)
        records.write(replace(RUNNING, status=Status.COMPLETED, end=End(Status.COMPLETED, "")))
        (stored,) = records.load()
        assert stored.payload.status is Status.COMPLETED
    finally:
        records.close()


@pytest.mark.parametrize("spoil", WAYS)
def test_that_it_runs_is_noted_all_the_same(data: Path, spoil: Callable[[Path], None]) -> None:
    records = Records(data, boot="b")
    try:
        records.directory(KEY).mkdir(parents=True)
        spoil(records.directory(KEY))
        records.write_running(RUNNING)
        records.write(replace(RUNNING, status=Status.PREPARED))
        assert records.load()[0].running
    finally:
        records.close()
