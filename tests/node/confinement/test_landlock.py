"""What Landlock keeps a program from, in each of its versions: really tried, by masking newer rights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from node.confinement import landlock

HERE: Final = Path(__file__).parent
SYSTEM: Final = [path for path in ("/usr", "/bin", "/lib", "/lib64", "/etc", "/proc") if os.path.exists(path)]
PYTHON: Final = sorted({os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix), sys.prefix})
KERNEL: Final = landlock.find_abi()

pytestmark = pytest.mark.skipif(KERNEL == 0, reason="no Landlock in this kernel")


class Place:
    """A directory that may be written, one beside it that may not, and one that may only be read."""

    def __init__(self, directory: Path, abi: int) -> None:
        self.abi = abi
        self.mine, self.closed, self.readable = (directory / name for name in ("mine", "closed", "readable"))
        for each in (self.mine, self.closed, self.readable):
            each.mkdir()
            (each / "file").write_text("content\n")
        self.network = False

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        options = {
            "abi": self.abi,
            "network": self.network,
            "read": [*SYSTEM, *PYTHON, str(self.readable)],
            "write": [str(self.mine)],
            "device": ["/dev/null", "/dev/zero"],
        }
        launcher = [sys.executable, "-I", "-S", str(HERE / "under_landlock.py"), json.dumps(options)]
        return subprocess.run(
            [*launcher, *command], cwd=self.mine, capture_output=True, text=True, check=False, timeout=120
        )

    def bash(self, script: str) -> int:
        return self.run("bash", "-c", script).returncode

    def python(self, code: str) -> str:
        """What it prints, or the last line of its error."""
        done = self.run(sys.executable, "-I", "-S", "-c", code)
        return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]


@pytest.fixture
def place(tmp_path: Path, abi: int) -> Place:
    return Place(tmp_path, abi)


def test_its_own_directory_is_its_own(place: Place) -> None:
    script = """
set -e
cat file ../readable/file > both; echo more >> both; test "$(wc -l < both)" = 3
mkdir -p a/b; mkfifo a/f; ln -s ../both a/l; cat a/l > /dev/null; head -c 9 /dev/zero > a/zero
printf '#!/bin/sh\\nexit 7\\n' > tool; chmod +x tool; code=0; ./tool || code=$?; test $code = 7
mv both renamed; truncate -s 1 renamed; mv renamed a/b/moved; rm -r a; : > file
sleep 10 & kill $!
"""
    done = place.run("bash", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_else_is_read_or_written(place: Place) -> None:
    for refused in (
        "cat ../closed/file",
        "ls ../closed",
        "ls ..",
        "echo x > ../closed/file",
        "echo x > ../readable/file",
        "echo x >> ../readable/file",
        "touch ../readable/new",
        "mkdir ../readable/new",
        "rm ../readable/file",
        "mv ../readable/file .",
        "ln ../closed/file .",
        "ln -s x ../readable/link",
        "mkfifo ../readable/fifo",
        "ln -s ../closed here && cat here/file",
        f"cat {place.closed}/file",
        "mknod disk b 7 0",
    ):
        assert place.bash(refused) != 0, refused
    for each in (place.closed, place.readable):
        assert (each / "file").read_text() == "content\n"
        assert os.listdir(each) == ["file"]


def test_truncating_what_may_not_be_written_is_refused_from_version_3(place: Place) -> None:
    answer = place.python("import os; os.truncate('../readable/file', 0); print('truncated')")
    assert (answer == "truncated") == (place.abi < 3)
    assert ((place.readable / "file").read_text() == "") == (place.abi < 3)


def test_files_move_between_directories_from_version_2(place: Place) -> None:
    (place.mine / "other").mkdir()
    answer = place.python("import os; os.rename('file', 'other/file'); print('moved')")
    assert (answer == "moved") == (place.abi >= 2)
    assert place.bash("mv file other/ || test -f other/file") == 0  # A copy, where it has to be.


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made.getsockname()[1]


def test_tcp_is_closed_from_version_4_unless_granted(place: Place, listener: int) -> None:
    connect = f"import socket; socket.create_connection(('127.0.0.1', {listener}), 30); print('connected')"
    listen = "import socket; socket.create_server(('127.0.0.1', 0)); print('listens')"
    closed = place.abi >= 4
    assert (place.python(connect) != "connected") == closed
    assert (place.python(listen) != "listens") == closed
    place.network = True
    assert place.python(connect) == "connected"
    assert place.python(listen) == "listens"


def test_processes_outside_get_no_signals_from_version_6(place: Place) -> None:
    code = f"import os; os.kill({os.getpid()}, 0); print('reached')"
    assert (place.python(code) == "reached") == (place.abi < 6)


def test_abstract_sockets_outside_are_closed_from_version_6(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("")  # a name that the kernel chooses
        made.listen()
        name = made.getsockname()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); print('connected')"
        assert (place.python(code) == "connected") == (place.abi < 6)


def test_other_processes_are_not_looked_into(place: Place) -> None:
    """In every version, root neither: not their memory nor environment, nor by what they have opened."""
    for name in ("environ", "maps", "mem", "cwd/.", "root/etc/passwd", "fd/0"):
        answer = place.python(f"import os; os.open('/proc/{os.getpid()}/{name}', os.O_RDONLY)")
        assert answer.startswith("PermissionError: [Errno 13]"), name
    assert place.python("open('/proc/self/environ').read(); print('own')") == "own"


def test_a_file_of_a_rule_is_that_file_alone(place: Place) -> None:
    (place.closed / "named").write_text("named\n")
    options = {"abi": place.abi, "read": [*SYSTEM, str(place.closed / "named")], "device": ["/dev/null"]}
    launcher = [sys.executable, "-I", "-S", str(HERE / "under_landlock.py"), json.dumps(options)]
    script = 'cat "$1/named" && ! cat "$1/file" && ! echo x > "$1/named"'
    done = subprocess.run(
        [*launcher, "bash", "-c", script, "bash", str(place.closed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "named\n")


def test_programs_have_no_privileges_and_gain_none(place: Place) -> None:
    (place.readable / "secret").touch(mode=0)
    status = place.run("cat", "/proc/self/status").stdout
    assert "\nNoNewPrivs:\t1\n" in status
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"\n{capabilities}:\t0000000000000000\n" in status
    assert place.bash("cat ../readable/secret") != 0


def test_its_own_children_get_signals(place: Place) -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); p.terminate(); print(p.wait())"
    assert place.python(code) == str(-signal.SIGTERM)


def test_a_version_that_the_kernel_does_not_have_is_never_told() -> None:
    assert 1 <= landlock.find_abi() <= landlock.NEWEST == max(landlock.ABIS)
    assert sorted(landlock.ABIS) == list(range(1, landlock.NEWEST + 1))


def test_what_is_not_there_is_an_error() -> None:
    ruleset = landlock.Ruleset(1, network=True)
    try:
        with pytest.raises(FileNotFoundError):
            ruleset.allow("/nowhere/at/all", landlock.READ)
    finally:
        ruleset.close()
