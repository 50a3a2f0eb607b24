"""scripts/setup on machines that lack something, with a PATH of its own and stand-ins on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = [
    *("bash", "cat", "chmod", "cut", "dirname", "env", "flock", "grep", "head", "mkdir", "mktemp", "rm"),
    *("sha256sum", "tail", "true"),
]

# As much of an interpreter as the script asks for; each call is noted. `venv` makes a copy of itself.
PYTHON = """#!/bin/bash
echo "python $*" >> "$CALLS"
case "$*" in
  *version_info*) echo "${FAKE_VERSION:-3.11}" ;;
  *ensurepip*) [ -e "$STATE/venv-installed" ] || [ -z "${NO_VENV:-}" ] ;;
  *base_prefix*) sha256sum < "$0" ;;
  --version) echo "Python ${FAKE_VERSION:-3.11}.0" ;;
  "-m venv"*) made="${*: -1}/bin/python"; mkdir -p "${made%/*}" && cat "$0" > "$made" && chmod +x "$made" ;;
  "-m pip install"*) echo "$PIP_SAYS"; [ -z "${PIP_SAYS:-}" ] ;;
esac
"""
APT = """#!/bin/bash
echo "apt-get $*" >> "$CALLS"
[ -z "${APT_SAYS:-}" ] || { echo "$APT_SAYS"; exit 100; }
[ "$1" = update ] || : > "$STATE/venv-installed"
"""
SUDO = '#!/bin/bash\necho "sudo $*" >> "$CALLS"\n[ "$1" != -n ] || shift\n[ -z "$*" ] || exec "$@"\n'
USER_ID = '#!/bin/bash\necho "${FAKE_UID:-0}"\n'


def other(version: str, case: str = "none", answer: str = "") -> str:
    """A stand-in of this version, which answers one of its cases with another command."""
    return PYTHON.replace("FAKE_VERSION:-3.11", f"OTHER_VERSION:-{version}").replace(
        'case "$*" in\n', f'case "$*" in\n  {case}) {answer} ;;\n'
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """A project directory, a PATH with little on it, and a directory that stands for /usr/bin."""

    root: Path
    programs: Path

    @property
    def own(self) -> Path:
        return self.root.parent / "own"

    def add(self, name: str | Path, text: str) -> None:
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def run(
        self, *arguments: str, user: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        state = self.root.parent
        return subprocess.run(
            [str(self.programs / "bash"), str(self.root / "scripts" / "setup"), *arguments],
            env={
                "PATH": str(self.programs),
                "CALLS": str(state / "calls"),
                "STATE": str(state),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=user,
        )

    def calls(self) -> list[str]:
        """What was called since it was last asked."""
        log = self.root.parent / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Not below tmp_path, which other users (there is one below) may not enter."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        place.chmod(0o755)
        root, programs = place / "a project", place / "bin"
        programs.mkdir()
        for file in ("pyproject.toml", "deploy/lock/run.txt", "deploy/lock/dev.txt", "scripts/setup"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, root / file)
        made = Machine(root, programs)
        made.own.mkdir()
        setup = root / "scripts" / "setup"
        setup.write_text(setup.read_text().replace("/usr/bin/", f"{made.own}/"))
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (programs / tool).symlink_to(found)
        made.add("python3", PYTHON)
        made.add("id", USER_ID)
        yield made


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line said, of a run that failed; nothing but announcements of what it does may precede it."""
    assert done.returncode == 1
    assert done.stdout == ""
    *before, last = done.stderr.splitlines()
    assert all(line.startswith(("scripts/setup: installing", "scripts/setup: made")) for line in before)
    assert last.startswith("scripts/setup: ")
    assert "type: " in last
    return last


def test_first_run_installs_by_hashes_and_second_run_calls_nothing(machine: Machine) -> None:
    assert machine.run().returncode == 0
    calls = machine.calls()
    locked, project = (call for call in calls if "pip install" in call)
    assert locked.endswith("--require-hashes -r deploy/lock/run.txt")
    assert project.endswith("--no-index --no-deps --no-build-isolation -e .")
    again = machine.run()
    assert (again.returncode, again.stdout + again.stderr, machine.calls()) == (0, "", [])


def test_dev_adds_to_a_plain_installation_and_serves_for_a_plain_one(machine: Machine) -> None:
    machine.run()
    machine.calls()
    machine.add("curl", "")
    machine.add("bwrap", "")
    machine.add("strace", "")
    assert machine.run("--dev").returncode == 0
    assert any(call.endswith("--require-hashes -r deploy/lock/dev.txt") for call in machine.calls())
    assert machine.run().returncode == 0
    assert machine.run("--dev").returncode == 0
    assert machine.calls() == []


@pytest.mark.parametrize("file", ["pyproject.toml", "deploy/lock/run.txt", "deploy/lock/dev.txt"])
def test_changed_requirements_are_installed_again(machine: Machine, file: str) -> None:
    machine.run()
    machine.calls()
    with (machine.root / file).open("a") as lines:
        lines.write("# changed\n")
    assert machine.run().returncode == 0
    assert any("pip install" in call for call in machine.calls())


def test_moved_project_is_set_up_again(machine: Machine) -> None:
    machine.run()
    machine.calls()
    moved = Machine(machine.root.rename(machine.root.with_name("elsewhere")), machine.programs)
    assert moved.run().returncode == 0
    assert any("pip install" in call for call in moved.calls())


def test_interrupted_installation_is_not_taken_for_a_finished_one(machine: Machine) -> None:
    machine.run()
    with (machine.root / "deploy" / "lock" / "run.txt").open("a") as lines:
        lines.write("# changed\n")
    assert machine.run(PIP_SAYS="ERROR: broken wheel").returncode == 1
    shutil.copy(ROOT / "deploy" / "lock" / "run.txt", machine.root / "deploy" / "lock" / "run.txt")
    machine.calls()
    assert machine.run().returncode == 0
    assert any("pip install" in call for call in machine.calls())


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_other_pythons_are_refused_in_one_line_with_what_was_found(machine: Machine, version: str) -> None:
    said = one_line(machine.run(FAKE_VERSION=version))
    assert f"Python 3.11, 3.12 or 3.13 is needed, found Python {version}.0; type: " in said


def test_no_python_at_all_is_said_in_one_line(machine: Machine) -> None:
    (machine.programs / "python3").unlink()
    assert "found none; type: sudo apt-get install" in one_line(machine.run())


def test_second_best_name_of_python_is_found(machine: Machine) -> None:
    machine.add("python3.12", other("3.12"))
    assert machine.run(FAKE_VERSION="3.10").returncode == 0


def test_python_of_the_distribution_is_taken_before_those_of_path(machine: Machine) -> None:
    machine.add(machine.own / "python3", other("3.14"))
    machine.add(machine.own / "python3.12", other("3.12"))
    done = machine.run()
    assert done.returncode == 0
    assert f"made .venv with {machine.own}/python3.12, Python 3.12, the distribution's own\n" in done.stderr


@pytest.mark.parametrize(
    "own",
    [other("3.10"), other("3.12", "*ensurepip*", "exit 1"), other("3.12", '"-m venv"*', "exit 1")],
    ids=["unsuitable", "without the module", "failing"],
)
def test_next_python_is_taken_before_anything_is_installed(machine: Machine, own: str) -> None:
    machine.add("apt-get", APT)
    machine.add(machine.own / "python3", own)
    done = machine.run()
    assert done.returncode == 0
    assert f"made .venv with {machine.programs}/python3, Python 3.11, the first on PATH" in done.stderr
    assert not any(call.startswith("apt-get") for call in machine.calls())


def test_venv_module_is_installed_for_the_python_of_the_distribution(machine: Machine) -> None:
    machine.add("apt-get", APT)
    machine.add(machine.own / "python3", other("3.12"))
    done = machine.run(NO_VENV="1")
    assert f"made .venv with {machine.own}/python3, Python 3.12, the distribution's own\n" in done.stderr
    assert "apt-get install -y --no-install-recommends python3.12-venv" in machine.calls()


def test_python_that_is_asked_for_is_taken_before_all(machine: Machine) -> None:
    machine.add(machine.own / "python3", other("3.12"))
    wish = machine.root / "my python"
    machine.add(wish, other("3.13"))
    done = machine.run(PYTHON=str(wish))
    assert done.returncode == 0
    assert f"made .venv with {wish}, Python 3.13, as PYTHON asks\n" in done.stderr
    machine.calls()
    again = machine.run(PYTHON=str(wish))
    assert (again.returncode, again.stderr) == (0, "")
    assert not any(" -m " in call for call in machine.calls())


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("version", ["3.10", None])
def test_unsuitable_wish_is_refused_and_changes_nothing(
    machine: Machine, ready: bool, version: str | None
) -> None:
    if ready:
        machine.run()
    if version:
        machine.add("wish", other(version))
    said = one_line(machine.run(PYTHON="wish"))
    assert "PYTHON=wish does not run as Python 3.11, 3.12 or 3.13; type: PYTHON=" in said
    assert (machine.root / ".venv").exists() == ready


def test_environment_that_is_there_is_kept_and_a_wish_for_another_refused(machine: Machine) -> None:
    machine.run()
    venv = machine.root / ".venv"
    made = (venv / "bin" / "python").read_text()
    machine.add(machine.own / "python3", other("3.12"))
    with (machine.root / "pyproject.toml").open("a") as lines:
        lines.write("# changed\n")
    done = machine.run()
    assert (done.returncode, "made .venv" in done.stderr) == (0, False)
    said = one_line(machine.run(PYTHON=f"{machine.own}/python3"))
    assert f"{venv} is there, and not of PYTHON={machine.own}/python3; type: rm -rf '{venv}' && " in said
    assert (venv / "bin" / "python").read_text() == made


def test_no_venv_module_and_no_right_to_install_it_is_said_in_one_line(machine: Machine) -> None:
    machine.add("apt-get", APT)
    said = one_line(machine.run(FAKE_UID="1000", NO_VENV="1"))
    assert "neither root nor sudo; type: su -c 'apt-get install python3.11-venv'" in said
    assert not any(call.startswith("apt-get") for call in machine.calls())


def test_missing_venv_module_is_installed_by_root_and_said(machine: Machine) -> None:
    machine.add("apt-get", APT)
    done = machine.run(NO_VENV="1")
    assert done.returncode == 0
    assert "scripts/setup: installing with apt-get (as root): python3.11-venv" in done.stderr
    assert "apt-get install -y --no-install-recommends python3.11-venv" in machine.calls()


def test_missing_venv_module_is_installed_through_sudo_and_said(machine: Machine) -> None:
    machine.add("apt-get", APT)
    machine.add("sudo", SUDO)
    done = machine.run(FAKE_UID="1000", NO_VENV="1")
    assert done.returncode == 0
    assert "scripts/setup: installing with apt-get (sudo -n): python3.11-venv" in done.stderr


def test_failing_apt_get_is_quoted_in_the_one_line(machine: Machine) -> None:
    machine.add("apt-get", APT)
    said = one_line(machine.run(NO_VENV="1", APT_SAYS="E: Unable to locate package"))
    assert "E: Unable to locate package" in said


def test_unreachable_package_index_is_said_in_one_line(machine: Machine) -> None:
    words = "WARNING: Retrying after connection broken by 'NewConnectionError: Connection refused'"
    assert "no package index can be reached" in one_line(machine.run(PIP_SAYS=words))


def test_other_failures_of_pip_are_quoted_in_one_line(machine: Machine) -> None:
    said = one_line(machine.run(PIP_SAYS="ERROR: broken wheel"))
    assert "pip failed: ERROR: broken wheel" in said


def test_directory_that_is_not_writable_is_said_in_one_line(machine: Machine) -> None:
    if os.geteuid() == 0:
        done = machine.run(user=65534)  # root may write anywhere: nobody runs it
    else:
        machine.root.chmod(0o555)
        done = machine.run()
        machine.root.chmod(0o755)
    assert f"cannot write to {machine.root}; type: cp -R" in one_line(done)


def test_tools_that_cannot_be_installed_are_named_with_what_is_skipped(machine: Machine) -> None:
    done = machine.run("--dev", FAKE_UID="1000")
    assert done.returncode == 0
    # Others are looked for in /usr/sbin too, where this machine may have them.
    assert "scripts/setup: skipped: curl bubblewrap chromium strace" in done.stderr
    assert " (needs apt-get as root or by sudo)" in done.stderr


def test_unknown_argument_shows_the_usage(machine: Machine) -> None:
    done = machine.run("--devel")
    assert (done.returncode, done.stderr) == (2, "usage: scripts/setup [--dev]\n")


def test_help_tells_how_to_ask_for_a_python(machine: Machine) -> None:
    done = machine.run("--help")
    assert (done.returncode, done.stderr, machine.calls()) == (0, "", [])
    assert done.stdout.startswith("usage: scripts/setup [--dev]\n")
    assert "PYTHON=/path/to/python" in done.stdout
