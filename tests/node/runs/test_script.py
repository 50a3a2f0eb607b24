"""What is done to a run.sh before it is started."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from node.runs.script_check import CONVERTED, CONVERTED_CR, WITHOUT_BOM, ScriptCheck, make_ready


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
        (b"\xef\xbb\xbfecho a\n", b"echo a\n", WITHOUT_BOM),
        (b"\xef\xbb\xbfecho a\r\n", b"echo a\n", f"{WITHOUT_BOM}; {CONVERTED}"),
        (b"echo \xff\xfe\n", b"echo \xff\xfe\n", ""),
        (b"echo a\r", b"echo a\n", CONVERTED_CR),
        (b"#!/bin/bash\recho hi > o\r", b"#!/bin/bash\necho hi > o\n", CONVERTED_CR),
        (b"x" * 65535 + b"\ry" * 40000, b"x" * 65535 + b"\ny" * 40000, CONVERTED_CR),
        (b"printf 'a\rb'" + b"x" * 70000 + b"\n", b"printf 'a\rb'" + b"x" * 70000 + b"\n", ""),
        (b"printf 'a\rb'\n", b"printf 'a\rb'\n", ""),
        (b"a\r\n" + b"x" * 65531 + b"\r\n\r\ry\r", b"a\n" + b"x" * 65531 + b"\n\r\ry\r", CONVERTED),
        (b"a\r\n" + b"x" * 65532 + b"\r\r\n", b"a\n" + b"x" * 65532 + b"\r\n", CONVERTED),
    ],
)
def test_what_editors_did_is_mended(tmp_path: Path, content: bytes, mended: bytes, note: str) -> None:
    path = script(tmp_path, content)
    assert make_ready(path) == ScriptCheck(note=note)
    assert path.read_bytes() == mended and path.stat().st_mode & 0o777 == 0o750
    assert os.listdir(path.parent) == ["run.sh"] and os.listdir(tmp_path) == ["work"]


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_invalid(tmp_path: Path, coding: str) -> None:
    assert "UTF-16" in make_ready(script(tmp_path, "#!/bin/bash\r\ntrue\r\n".encode(coding))).invalid


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ((), ""),
        (("Run.sh",), ", but there is 'Run.sh'"),
        (("RUN.SH", "main.sh", "data"), ", but there is 'RUN.SH'"),
        (("sub/run.sh", "sub/input"), ", but there is 'sub/run.sh'"),
        (("run.sh.txt", "run.py", "run"), ", but there is 'run', 'run.py', 'run.sh.txt'"),
        (("run .sh", "a/b/Run.SH"), ", but there is 'run .sh', 'a/b/Run.SH'"),
        (
            ("1/run.sh", "2/run.sh", "3/run.sh", "4/run.sh"),
            ", but there is '1/run.sh', '2/run.sh', '3/run.sh'",
        ),
        (("main.sh", "job.sh", "input.pdb", "sub/run"), ""),
    ],
)
def test_without_run_sh_it_is_invalid_and_what_is_similar_is_named(
    tmp_path: Path, there: tuple[str, ...], named: str
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make_ready(tmp_path / "run.sh").invalid == "run.sh not found" + named


@pytest.mark.parametrize(
    ("line", "options", "note"),
    [
        (b"", (), ""),
        (b"# -e", (), ""),
        (b"#!", (), ""),
        (b"#!/bin/bash", (), ""),
        (b"#!/bin/bash -e", ("-e",), ""),
        (b"#! /bin/sh -eu", ("-eu",), ""),
        (b"#!/bin/bash -e\r", ("-e",), ""),
        (b"#!/bin/bash -", ("-",), ""),
        (b"#!/bin/bash -euo pipefail -O extglob", ("-euo", "pipefail", "-O", "extglob"), ""),
        (b"#!/bin/bash --posix -x +B --", ("--posix", "-x", "+B", "--"), ""),
        (b"#!/usr/bin/env bash", (), ""),
        (b"#!/usr/bin/env bash -e", ("-e",), ""),
        (b"#!/usr/bin/env -S bash -e -u", ("-e", "-u"), ""),
        (b"#!/usr/bin/env -Sbash -e", ("-e",), ""),
        (b"#!/bin/bash -e # strict", ("-e",), "'#' in the first line of run.sh was ignored"),
        (b"#!/bin/bash -- -e", ("--",), "'-e' in the first line of run.sh was ignored"),
        (b"#!/usr/bin/python3 -u", (), "run.sh names 'python3' in its first line; it was run by bash"),
        (b"#!/usr/bin/env perl", (), "run.sh names 'perl' in its first line; it was run by bash"),
    ],
)
def test_options_of_the_first_line_are_for_bash(
    tmp_path: Path, line: bytes, options: tuple[str, ...], note: str
) -> None:
    assert make_ready(script(tmp_path, line + b"\ntrue\n")).options == options
    assert make_ready(tmp_path / "work" / "run.sh").note == note


@pytest.mark.parametrize("option", [b"-c", b"-s", b"-en", b"--version", b"-D"])
def test_options_with_which_bash_would_run_nothing_are_invalid(tmp_path: Path, option: bytes) -> None:
    checked = make_ready(script(tmp_path, b"#!/bin/bash " + option + b"\ntrue\n"))
    assert checked.invalid == (
        f"the first line of run.sh gives bash {option.decode()}: then it does not run it"
    )


@pytest.mark.parametrize("option", [b"-o", b"-euo", b"--rcfile"])
def test_a_word_that_no_program_can_be_given_is_the_scripts_fault(tmp_path: Path, option: bytes) -> None:
    # Were it found out when bash is started, the node would look as if it were to blame.
    checked = make_ready(script(tmp_path, b"#!/bin/bash " + option + b" a\0b\ntrue\n"))
    assert checked.invalid == f"the first line of run.sh gives bash {option.decode()} a NUL byte"


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
