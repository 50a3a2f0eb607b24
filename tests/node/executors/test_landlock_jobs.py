"""Jobs in the tier `landlock`: what they reach is tried by real ones, in each version of it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import pytest
import trio
from support.processes import reach
from support.processes.surroundings import Surroundings, reached, reached_behind_landlock

from actors.domain.limits import JobLimits
from node.confinement import landlock, seccomp
from node.confinement.grants import Grants
from node.confinement.tier_settings import NO_UIDS
from node.executors.executor import HOME, PROGRESS, STDERR, STDOUT, RunEnd, RunSpec
from node.executors.shepherd_executor import Isolation, ShepherdExecutor
from node.executors.shepherded_run import read_run_mark
from tests.node.executors.conftest import ISOLATIONS, Payloads

PYTHON: Final = "/usr/bin/python3"
KERNEL: Final = landlock.find_abi()
PLACES: Final = [
    pytest.param(own_uid, isolation, id=f"{'own uid' if own_uid else 'account'}-{isolation}")
    for own_uid in (True, False)
    for isolation in ISOLATIONS
    if not own_uid or (os.geteuid() == 0 and isolation != "userns")
]

pytestmark = [
    pytest.mark.skipif(KERNEL == 0, reason="no Landlock in this kernel"),
    pytest.mark.skipif(not seccomp.supports(os.uname().machine), reason="no filter for this machine"),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason="no Python that every user may run"),
]


@pytest.fixture(params=[1, 4, 7])
def abi(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The node finds a kernel that has no more than this."""
    asked = int(request.param)
    if asked > KERNEL:
        pytest.skip(f"this kernel has version {KERNEL}")
    monkeypatch.setattr(landlock, "find_abi", lambda: asked)
    return asked


@asynccontextmanager
async def executor_in(directory: Path, isolation: Isolation, uids: bool) -> AsyncIterator[ShepherdExecutor]:
    made = ShepherdExecutor(directory, isolation, tier="landlock", uids=None if uids else NO_UIDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve)
        yield made
        nursery.cancel_scope.cancel()


async def run(executor: ShepherdExecutor, spec: RunSpec) -> tuple[RunEnd, str, str]:
    """How it ended, and what it printed."""
    (spec.directory / HOME).mkdir(exist_ok=True)
    with trio.fail_after(180):
        end = await (await executor.start(spec)).wait()
    return end, (spec.directory / STDOUT).read_text(), (spec.directory / STDERR).read_text()


async def test_a_job_reaches_what_the_documents_say_of_its_kernel(
    payloads: Payloads, open_directory: Path, abi: int
) -> None:
    own_uid, isolation = PLACES[0].values
    await look_around(payloads, open_directory, abi, bool(own_uid), cast(Isolation, isolation))


@pytest.mark.parametrize(("own_uid", "isolation"), PLACES[1:])
async def test_a_job_reaches_what_the_documents_say_of_its_place(
    payloads: Payloads, open_directory: Path, own_uid: bool, isolation: Isolation
) -> None:
    await look_around(payloads, open_directory, KERNEL, own_uid, isolation)


async def look_around(
    payloads: Payloads, open_directory: Path, abi: int, own_uid: bool, isolation: Isolation
) -> None:
    with ExitStack() as held:
        place = open_directory / "around"
        place.mkdir()
        around = Surroundings(place, 60_600 if own_uid else None, held)
        spec = payloads.make(f"exec {PYTHON} -I -S reach.py < targets.json")
        shutil.copy(reach.__file__, spec.work)
        (spec.work / "targets.json").write_text(json.dumps(around.targets))
        spec = replace(spec, grants=Grants(read=(around.shown,)))
        async with executor_in(payloads.directory, isolation, own_uid) as executor:
            end, said, errors = await run(executor, spec)
        assert (end.exit_code, errors) == (0, "")
        expected = reached_behind_landlock(abi, own_uid=own_uid, alone=isolation != "subreaper")
        assert reached(said) == expected


@pytest.mark.parametrize(("own_uid", "isolation"), PLACES)
async def test_the_network_and_a_socket_are_granted_by_name(
    payloads: Payloads, open_directory: Path, own_uid: bool, isolation: Isolation
) -> None:
    with ExitStack() as held:
        beside = open_directory / "around"
        beside.mkdir()
        around = Surroundings(beside, None, held)
        network = {"connect by TCP", "listen by TCP", "send by UDP"}
        programs = "connect to a socket of a program"
        targets = {name: around.targets[name] for name in (*network, programs)}
        met = []
        async with executor_in(payloads.directory, isolation, own_uid) as executor:
            for grants in (Grants(), Grants(network=True), Grants(write=(Path(targets[programs]),))):
                spec = payloads.make(f"exec {PYTHON} -I -S reach.py < targets.json")
                shutil.copy(reach.__file__, spec.work)
                (spec.work / "targets.json").write_text(json.dumps(targets))
                _, said, errors = await run(executor, replace(spec, grants=grants))
                assert errors == ""
                met.append({name for name, how in json.loads(said).items() if how == "reached"})
        assert met == [set(), network, {programs}]


@pytest.mark.parametrize(
    ("own_uid", "isolation"), [each for each in PLACES if "subreaper" not in each.values]
)
async def test_what_a_job_shares_in_memory_is_bounded_and_goes_with_it(
    payloads: Payloads, own_uid: bool, isolation: Isolation
) -> None:
    size = 4099 * os.getpid() % 1_000_003 + 1  # of a segment that nobody else has
    script = f"""
echo x > /dev/shm/left && ls /dev/shm
ipcmk -M {size} > /dev/null; tail -n +2 /proc/sysvipc/shm | awk '{{print $4}}'
df -B1 --output=size /dev/shm | tail -1
"""
    memory = 256 << 20
    spec = replace(payloads.make(script), limits=JobLimits(memory_bytes=memory))
    async with executor_in(payloads.directory, isolation, own_uid) as executor:
        end, said, errors = await run(executor, spec)
    assert (end.exit_code, said.split(), errors) == (0, ["left", str(size), str(memory)], "")
    with open("/proc/sysvipc/shm") as listed:  # noqa: ASYNC230  # no disk
        assert str(size) not in [line.split()[3] for line in listed]
    assert "left" not in os.listdir("/dev/shm")


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_jobs_one_after_the_other_share_rules_and_nothing_else(
    payloads: Payloads, isolation: Isolation
) -> None:
    specs = [payloads.make("") for _ in range(12)]
    files = [str(spec.work / "mine") for spec in specs]
    for spec, file in zip(specs, map(Path, files), strict=True):
        file.write_text("private\n")
        script = f"""
cat mine && echo changed > mine || exit 1
for file in {" ".join(files)}; do
    [[ $file == $PWD/mine ]] && continue
    cat $file && exit 2
    echo x >> $file && exit 3
done
ls ../.. ../../spawner.lock > /dev/null && exit 4
cat /etc/shadow > /dev/null && exit 6
ls -l /proc/$$/fd | grep -e landlock -e mountinfo && exit 5
exit 0
"""
        (spec.work / "run.sh").write_text(script)
    shepherds = set()
    async with executor_in(payloads.directory, isolation, uids=False) as executor:
        for spec in specs:
            end, said, errors = await run(executor, spec)
            assert (end.exit_code, said) == (0, "private\n"), errors
            assert (spec.work / "mine").read_text() == "changed\n"
            mark = read_run_mark(spec)
            assert mark is not None
            shepherds.add(mark.shepherd.pid)
    assert (len(shepherds) < len(specs)) == (isolation != "subreaper")


async def test_an_ordinary_script_does_its_work(payloads: Payloads, abi: int) -> None:
    script = r"""
set -e
echo "$USER $LOGNAME"; test "$HOME" = "${PWD%work}home"
printf 'int main(void) { return 0; }\n' > a.c
mkdir -p a/b; echo text > a/b/c; cp -p a/b/c d; ln -s d e; chmod +x d; mv d a/b/; rm -r a e
test "$(cat <(echo one) <(echo two) | wc -l)" = 2; mktemp -p "$HOME" > /dev/null
echo 0.5 half > ../progress/at; seq 3 | sort -r | tee sorted | head -1; test "$(nproc)" -ge 1
"""
    spec = payloads.make(script)
    (spec.directory / PROGRESS).mkdir()
    spec = replace(spec, environment={"PATH": "/usr/bin:/bin", "HOME": str(spec.directory / HOME)})
    own_uid = os.geteuid() == 0
    async with executor_in(payloads.directory, "auto", own_uid) as executor:
        end, said, errors = await run(executor, spec)
        assert executor.name == "landlock"
    names = {each.pw_uid: each.pw_name for each in pwd.getpwall()}
    name = "job" if own_uid else names.get(os.geteuid(), "job")
    assert (end.exit_code, said, errors) == (0, f"{name} {name}\n3\n", "")


async def test_the_start_says_that_no_containers_can_be_made(
    payloads: Payloads, caplog: pytest.LogCaptureFixture
) -> None:
    for grants in (Grants(), Grants(containers=True)):
        caplog.clear()
        made = ShepherdExecutor(payloads.directory, tier="landlock", grants=(grants,))
        async with trio.open_nursery() as inner:
            await inner.start(made.serve)
            inner.cancel_scope.cancel()
        assert ("containers = true changes nothing" in caplog.text) == grants.containers
