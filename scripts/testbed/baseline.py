"""What the machine needs without any orchestrator, measured in the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

COPY_BLOCK: Final = 1 << 20


def bash_alone(script: bytes) -> float:
    """Seconds that `bash run.sh` needs, in a fresh directory."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run.sh"
        path.write_bytes(script)
        began = time.monotonic()
        subprocess.run(["bash", "run.sh"], cwd=name, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - began


def bash_many(script: bytes, times: int, at_once: int) -> float:
    """Seconds from the first start to the last end of many of them."""
    with ThreadPoolExecutor(at_once) as pool:
        began = time.monotonic()
        for future in [pool.submit(bash_alone, script) for _ in range(times)]:
            future.result()
        return time.monotonic() - began


def files_durably(directory: Path, content: bytes, times: int, at_once: int) -> float:
    """Seconds to write so many files, each until it and the entry in its directory are on the disk."""

    def write(number: int) -> None:
        path = directory / f"plain-{number}"
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)

    with ThreadPoolExecutor(at_once) as pool:
        began = time.monotonic()
        for _ in pool.map(write, range(times)):
            pass
        return time.monotonic() - began


def copy_durably(source: Path, target: Path) -> float:
    """Seconds to copy a file until it is on the disk."""
    began = time.monotonic()
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, COPY_BLOCK)
        written.flush()
        os.fsync(written.fileno())
    return time.monotonic() - began
