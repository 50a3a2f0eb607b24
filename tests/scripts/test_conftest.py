"""tests/conftest.py under CI and under `nohup`, tried on a small suite of its own in a second pytest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SUITE = """
import pytest

@pytest.mark.skipif(True, reason="no such tool here")
def test_marked(): ...

def test_within(): pytest.skip("not today")

@pytest.mark.xfail(strict=True)
def test_expected(): assert False

def test_runs(): ...
"""


IGNORING = """
import signal, subprocess, pytest

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_program_ends_by_it(number):
    with subprocess.Popen(["sleep", "60"]) as program:
        program.send_signal(number)
        assert program.wait() == -number
"""


def run_suite(
    directory: Path, ci: str | None, *arguments: str, ignored: tuple[signal.Signals, ...] = ()
) -> tuple[int, str]:
    shutil.copy(CONFTEST, directory / "conftest.py")
    (directory / "test_some.py").write_text(SUITE)
    (directory / "test_whole_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "PYTEST_ADDOPTS"}}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_XDIST")}
    # Most of what a second pytest costs is plugins that are not used here.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if ci is not None:
        environment["CI"] = ci
    done = subprocess.run(
        [
            "env",
            *(f"--ignore-signal={number.name.removeprefix('SIG')}" for number in ignored),
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(directory),
            # Beside those of other runs it would delete the oldest of them at its end.
            "--basetemp",
            str(directory / "temporary"),
            *arguments,
            ".",
        ],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")], ids=["one process", "xdist"])
def test_under_ci_each_skip_fails_with_its_reason(tmp_path: Path, workers: tuple[str, ...]) -> None:
    status, output = run_suite(tmp_path, "true", "--continue-on-collection-errors", *workers)
    assert status == 1
    assert "test_some.py::test_marked: skipped, and CI is set, where nothing may be" in output
    assert "no such tool here" in output
    assert "not today" in output
    assert "no_such_module" in output
    assert "1 passed" in output
    assert "1 xfailed" in output
    assert " skipped in" not in output


@pytest.mark.parametrize("ci", [None, "", "false", "0"])
def test_elsewhere_skips_are_skips(tmp_path: Path, ci: str | None) -> None:
    status, output = run_suite(tmp_path, ci)
    assert status == 0
    assert "1 passed, 3 skipped, 1 xfailed" in output


def test_what_tests_start_does_not_ignore_the_signals_that_nohup_does(tmp_path: Path) -> None:
    (tmp_path / "test_ignoring.py").write_text(IGNORING)
    status, output = run_suite(tmp_path, None, "-k", "ends_by", ignored=(signal.SIGINT, signal.SIGHUP))
    assert (status, "2 passed" in output) == (0, True), output
