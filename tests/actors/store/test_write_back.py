"""A large file that is given to the disk while it is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from actors.store.sync_disk import write_back

STEP = 1 << 20


def test_what_is_written_step_by_step_is_the_file(tmp_path: Path) -> None:
    steps = [bytes([number]) * STEP for number in range(5)]
    fd = os.open(tmp_path / "large", os.O_CREAT | os.O_WRONLY)
    try:
        waited = begun = written = 0
        for step in steps:
            written += os.write(fd, step)
            write_back(fd, waited, begun, written)
            waited, begun = begun, written
    finally:
        os.close(fd)
    assert (tmp_path / "large").read_bytes() == b"".join(steps)


def test_where_it_cannot_be_done_the_sync_at_the_end_does_it() -> None:
    ends = os.pipe()
    try:
        write_back(ends[1], 0, STEP, 2 * STEP)
    finally:
        for end in ends:
            os.close(end)


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "closed", os.O_CREAT | os.O_WRONLY)
    os.close(fd)
    with pytest.raises(OSError) as raised:
        write_back(fd, 0, 0, STEP)
    assert raised.value.errno == errno.EBADF
