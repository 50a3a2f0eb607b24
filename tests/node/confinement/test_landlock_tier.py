"""What the tier `landlock` keeps from a script and what not: all of it really tried, in each version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from support.processes import reach
from support.processes.surroundings import Surroundings, reached, reached_behind_landlock

from node.confinement import landlock, seccomp, visible
from node.confinement.landlock_tier import Given, LandlockTier

HERE: Final = Path(__file__).parent
KERNEL: Final = landlock.find_abi()
PYTHON: Final = "/usr/bin/python3"
SYSTEM: Final = [path for path in ("/usr", "/bin", "/lib", "/lib64", "/etc/passwd") if os.path.exists(path)]
UID: Final = 2_000_000_001

pytestmark = [
    pytest.mark.skipif(KERNEL == 0, reason="no Landlock in this kernel"),
    pytest.mark.skipif(not seccomp.supports(os.uname().machine), reason="no filter for this machine"),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason="no Python that every user may run"),
]


@pytest.fixture(params=["a uid of its own", "the node's account"])
def uid(request: pytest.FixtureRequest) -> int:
    if request.param == "the node's account":
        return 0
    if os.geteuid() != 0:
        pytest.skip("only root gives uids")
    return UID


class Job:
    """A job's directory, and a way to run something in it behind Landlock."""

    def __init__(self, around: Surroundings, uid: int) -> None:
        self.around, self._uid = around, uid
        self.work, self._home = around.jobs / "mine" / "work", around.jobs / "mine" / "home"
        for each in (self.work, self._home):
            each.mkdir(parents=True)
            if uid:
                os.chown(each, uid, uid)
        shutil.copy(reach.__file__, self.work)

    def run(
        self, abi: int, *command: str, stdin: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        given = {
            "abi": abi,
            "uid": self._uid,
            "see": [*SYSTEM, str(self.around.shown)],
            "jobs": str(self.around.jobs),
            "own": [str(self.work), str(self._home)],
            "write": [],
            "read": [],
            "devices": [],
            "network": False,
            "sockets": False,
        }
        launcher = [sys.executable, "-I", "-S", str(HERE / "under_tier.py"), json.dumps(given | options)]
        return subprocess.run(
            [*launcher, *command],
            cwd=self.work,
            env={"HOME": str(self._home), "TMPDIR": str(self._home), "PATH": "/usr/bin:/bin"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            start_new_session=True,
        )

    def reached(self, abi: int, **options: Any) -> set[str]:
        done = self.run(abi, PYTHON, "reach.py", stdin=json.dumps(self.around.targets), **options)
        assert done.returncode == 0, done.stderr
        return reached(done.stdout)


@pytest.fixture
def job(uid: int) -> Iterator[Job]:
    # Not in a directory of pytest's: users other than ours do not get there.
    with ExitStack() as held:
        directory = Path(held.enter_context(tempfile.TemporaryDirectory()))
        yield Job(Surroundings(directory, uid + 1 if uid else None, held), uid)


def test_a_script_reaches_what_the_documents_say(job: Job, abi: int, uid: int) -> None:
    assert job.reached(abi) == reached_behind_landlock(abi, own_uid=bool(uid))
    assert (job.around.shown / "writable").read_text() == "content"


def test_the_network_and_sockets_are_granted_by_name(job: Job, abi: int, uid: int) -> None:
    network = {"connect by TCP", "listen by TCP", "send by UDP"}
    assert job.reached(abi, network=True) == reached_behind_landlock(abi, own_uid=bool(uid)) | network
    sockets = {"connect to a socket of a program"}
    sockets |= {"connect to an abstract socket of a program"} if abi < 6 else set()
    assert job.reached(abi, sockets=True) == reached_behind_landlock(abi, own_uid=bool(uid)) | sockets


@pytest.mark.parametrize("uid", [0])
def test_without_the_tier_everything_is_reached(job: Job) -> None:
    """Else the tests above could not fail."""
    done = subprocess.run(
        [PYTHON, job.work / "reach.py"],
        input=json.dumps(job.around.targets),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    met = json.loads(done.stdout)
    # What other things than the tier may refuse: a container, who we are, how the kernel was built.
    anyhow = {"make a user namespace", "mount", "add a key", "use io_uring"}
    anyhow |= {"add an attribute to a file of the node", "read a file that only root may read"}
    assert {name for name, how in met.items() if how != "reached"} <= anyhow, met


def test_ordinary_work_goes_on(job: Job, abi: int) -> None:
    script = r"""
set -e
mkdir -p a/b && echo text > a/b/c && cp -p a/b/c d && ln -s d e && cat e > /dev/null && chmod +x d
tar --no-same-owner -cf t.tar a && mkdir u && tar --no-same-owner -C u -xf t.tar
mktemp > /dev/null; sort -o sorted d; head -c 10 /dev/urandom > r; test "$(nproc)" -ge 1
cat <<< here > h; diff <(echo x) <(echo x); (sleep 0 & wait)
echo x | tee >(cat > p) > /dev/null
mv d a/b/moved; rm -r a u; test "$PWD" = "$(/bin/pwd)"; echo x > /dev/shm/$$; rm /dev/shm/$$
"""
    done = job.run(abi, "bash", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/usr/bin/script"), reason="no `script` here")
def test_a_terminal_can_be_made_by_who_has_none_of_others(job: Job, abi: int, uid: int) -> None:
    done = job.run(abi, "script", "-qc", "tty", "/dev/null")
    assert done.stdout.startswith("/dev/pts/") == bool(uid)


def test_what_is_granted_is_read_and_written(job: Job, abi: int) -> None:
    directory = job.around.shown.parent / "granted"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "file").write_text("granted\n")
    script = f"cat {directory}/file && ! echo x 2>/dev/null > {directory}/new"
    assert job.run(abi, "bash", "-c", script, read=[str(directory)]).stdout == "granted\n"
    script = f"echo x > {directory}/new && cat {directory}/new"
    assert job.run(abi, "bash", "-c", script, write=[str(directory)]).stdout == "x\n"


def test_devices_are_opened_where_they_are_granted(job: Job, abi: int) -> None:
    code = "import os; os.open('/dev/tty', os.O_RDWR)"
    assert "PermissionError" in job.run(abi, PYTHON, "-c", code).stderr
    granted = job.run(abi, PYTHON, "-c", code, devices=["/dev/tty"])
    assert "PermissionError" not in granted.stderr  # There is none that it could be, in a session of its own.


def test_what_is_granted_and_not_there_is_seen_once_it_is(job: Job, abi: int) -> None:
    later = job.around.shown.parent / "later"
    assert job.run(abi, "cat", str(later), read=[str(later)]).returncode != 0
    later.write_text("later\n")
    assert job.run(abi, "cat", str(later), read=[str(later)]).stdout == "later\n"


def test_what_is_granted_and_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    tier = LandlockTier(os.uname().machine, 1, own_uid=False, read=[], devices=[], shared=[])
    looped = [os.fsencode(tmp_path / "loop")]
    given = Given(jobs=os.fsencode(tmp_path), own=[], read=looped, devices=[], write=[])
    with pytest.raises(OSError, match="loop"):
        tier.prepare(given, network=True)


def test_what_the_machine_has_for_all_is_there() -> None:
    assert all(os.path.exists(path) for path in (*visible.DEVICES, "/proc"))
