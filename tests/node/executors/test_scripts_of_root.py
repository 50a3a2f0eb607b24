"""Scripts that are root, as their node is: what is root's alone is out of reach, as is their shepherd."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from typing import Any, Final

import pytest
import trio

from node.confinement import bubblewrap
from node.confinement.grants import NOTHING_GRANTED, Grants
from node.confinement.landlock import find_abi
from node.confinement.tier_settings import NO_UIDS
from node.executors.executor import HOME, STDERR, STDOUT, RunEnd
from node.executors.shepherd_executor import ShepherdExecutor
from tests.node.executors.conftest import ISOLATIONS, Payloads

PYTHON: Final = "/usr/bin/python3"
TIERS: Final = [
    *(["bubblewrap"] if shutil.which("bwrap") else []),
    *(["landlock"] if find_abi() >= 6 else []),
]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or "pidns" not in ISOLATIONS, reason="for root, with namespaces"),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason="no Python that every user may run"),
]

FORGE: Final = r"""
import ctypes, os, struct, time
def forge(number):
    # Not by kill, and with the sender that whoever is outside of the namespace has.
    info = ctypes.create_string_buffer(struct.pack("6i", number, 0, -1, 0, 0, 0), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall({"x86_64": 129, "aarch64": 138}[os.uname().machine], os.getppid(), number, info) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
REACH: Final = (
    FORGE
    + r"""
import json, resource
def same_mode(what):
    os.chmod(what, os.stat(what).st_mode & 0o7777)
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def read(path):
    with open(path, "rb") as file:
        return file.read(1) or 1 / 0
tried = {
    "change the mode of a device": lambda: same_mode("/dev/null"),
    "change the mode of its input": lambda: same_mode(0),
    "limit its shepherd": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0)),
    "have its shepherd killed first": lambda: write(f"/proc/{os.getppid()}/oom_score_adj", "1000"),
    **{f"read /proc/{name}": lambda name=name: read(f"/proc/{name}") for name in NAMES},
}
reached = []
for name, what in tried.items():
    try:
        what()
    except (OSError, ZeroDivisionError):
        continue
    reached.append(name)
with open("/dev/null", "w") as null:
    null.write("as ever")
print(json.dumps([reached, read("/dev/zero") == b"\0", os.read(0, 1) == b""]))
"""
)


async def _run(
    payloads: Payloads, tier: Any, code: str, grants: Grants = NOTHING_GRANTED
) -> tuple[RunEnd, str]:
    spec = replace(payloads.make(f"exec {PYTHON} -I code.py"), grants=grants)
    (spec.work / "code.py").write_text(code)
    (spec.directory / HOME).mkdir()
    executor = ShepherdExecutor(payloads.directory, "pidns", tier=tier, uids=NO_UIDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        with trio.fail_after(60):
            end = await (await executor.start(spec)).wait()
        nursery.cancel_scope.cancel()
    return end, (spec.directory / STDOUT).read_text() + (spec.directory / STDERR).read_text()


@pytest.mark.parametrize("tier", TIERS)
async def test_what_is_roots_alone_is_kept_from_a_script_that_is_root(payloads: Payloads, tier: str) -> None:
    names = [name for name in bubblewrap.OF_ROOT_ALONE if os.access(f"/proc/{name}", os.R_OK)]
    _, said = await _run(payloads, tier, f"NAMES = {names!r}\n{REACH}")
    assert json.loads(said) == [[], True, True]


@pytest.mark.parametrize("tier", ["bash", *TIERS])
async def test_a_script_cannot_say_that_it_was_asked_to_end(payloads: Payloads, tier: str) -> None:
    """Of its own user, where the kernel lets it signal its shepherd, by what only an order looks like."""
    code = f"{FORGE}\nfor number in (10, 15):\n    try: forge(number)\n    except PermissionError: pass\n"
    # What stands in for the end of a script that still goes on half a second later.
    end, _ = await _run(payloads, tier, f"{code}time.sleep(0.5)\nraise SystemExit(7)")
    assert (end.exit_code, end.asked) == (7, False)
    # The same, still pending when nothing of it lives any more.
    end, _ = await _run(payloads, tier, f"{code}os.kill(os.getpid(), 9)")
    assert (end.signal, end.asked) == (9, False)


UNCOVER: Final = """
import ctypes, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
libc.umount2(b"/proc/sys", 2)
libc.mount(b"none", b"/usr", None, 0x1020, None)
TAKE = "umount -l /proc/sys; mount -o remount,bind,rw /usr; test -w /usr || test -w /proc/sys/kernel/sem"
inside = subprocess.run(["unshare", "-Urm", "sh", "-c", f"echo made; {TAKE}"], capture_output=True, text=True)
print(inside.stdout, inside.returncode, os.access("/usr", os.W_OK),
      os.access("/proc/sys/kernel/sem", os.W_OK))
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bwrap")
async def test_who_may_make_containers_uncovers_nothing_of_the_machine(payloads: Payloads) -> None:
    """Neither as it is, nor as root of a namespace that it makes."""
    _, said = await _run(payloads, "bubblewrap", UNCOVER, Grants(containers=True))
    assert said.split() == ["made", "1", "False", "False"]
