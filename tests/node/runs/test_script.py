"""What is done to a run.sh before it is started."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from node.runs.script_check import CONVERTED, ScriptCheck, make_ready


def script(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "work" / "run.sh"
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o750)
    return path


@pytest.mark.parametrize(
    ("content", "mended", "note"),
    [
        (b"echo a\n", b"echo a\n", ""),
        (b"", b"", ""),
        (b"#!/bin/bash\r\nset -e\r\nexit 0\r\n", b"#!/bin/bash\nset -e\nexit 0\n", CONVERTED),
        (b"echo a\r\necho b\n", b"echo a\necho b\n", CONVERTED),
        (b"echo a\r\nprintf 'x\ry'\r\n", b"echo a\nprintf 'x\ry'\n", CONVERTED),
        (b"cat <<X > data.txt\na\r\nX\n", b"cat <<X > data.txt\na\r\nX\n", ""),
        (b"\xef\xbb\xbfecho a\n", b"echo a\n", ""),
        (b"\xef\xbb\xbfecho a\r\n", b"echo a\n", CONVERTED),
        (b"echo \xff\xfe\n", b"echo \xff\xfe\n", ""),
        (b"echo a\r", b"echo a\r", ""),
        (b"a\r\n" + b"x" * 65531 + b"\r\n\r\ry\r", b"a\n" + b"x" * 65531 + b"\n\r\ry\r", CONVERTED),
        (b"a\r\n" + b"x" * 65532 + b"\r\r\n", b"a\n" + b"x" * 65532 + b"\r\n", CONVERTED),
    ],
)
def test_what_editors_did_is_mended(tmp_path: Path, content: bytes, mended: bytes, note: str) -> None:
    path = script(tmp_path, content)
    assert make_ready(path) == ScriptCheck(note=note)
    assert path.read_bytes() == mended and path.stat().st_mode & 0o777 == 0o750
    assert os.listdir(path.parent) == ["run.sh"] and os.listdir(tmp_path) == ["work"]


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_invalid(tmp_path: Path, mark: bytes) -> None:
    assert "UTF-16" in make_ready(script(tmp_path, mark + b"e\0c\0")).invalid


def test_without_run_sh_it_is_invalid(tmp_path: Path) -> None:
    assert make_ready(tmp_path / "run.sh").invalid == "run.sh not found"


def test_a_directory_or_a_link_is_no_script(tmp_path: Path) -> None:
    (tmp_path / "run.sh").mkdir()
    assert "directory" in make_ready(tmp_path / "run.sh").invalid
    os.symlink("/etc/passwd", tmp_path / "link")
    assert "no regular file" in make_ready(tmp_path / "link").invalid


@pytest.mark.parametrize(("head", "size"), [(b"#!/bin/bash\n", 200 << 20), (b"#!/bin/bash\r\n", 16 << 20)])
def test_a_script_that_unpacks_itself_is_never_in_memory_whole(
    tmp_path: Path, head: bytes, size: int
) -> None:
    path = script(tmp_path, head)
    os.truncate(path, size)
    tracemalloc.start()
    try:
        make_ready(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == size - head.count(b"\r")
