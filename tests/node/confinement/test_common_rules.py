"""Scripts that share a layer of Landlock: what one has no other gets at; and what changes outside of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from node.confinement import common_rules, landlock
from node.confinement.common_rules import find_grounds, find_trees
from node.confinement.landlock_tier import Given, LandlockTier

HERE: Final = Path(__file__).parent
KERNEL: Final = landlock.find_abi()
SYSTEM: Final = [path for path in ("/usr", "/bin", "/lib", "/lib64", "/proc") if os.path.exists(path)]
SEEN: Final = 70
"""Files that are seen one by one, as something closed is beside them: more than it takes to share."""

needs_landlock: Final = pytest.mark.skipif(KERNEL == 0, reason="no Landlock in this kernel")


class Node:
    """One shepherd, so to say: a tier whose scripts run one after the other."""

    def __init__(self, directory: Path, abi: int) -> None:
        self.seen, self.jobs = directory / "seen", directory / "data" / "jobs"
        for each in (self.seen, self.jobs):
            each.mkdir(parents=True)
        names = [self.seen / f"file{number}" for number in range(SEEN)]
        for each in (*names, self.seen / "closed"):
            each.write_text("content\n")
        self.tier = LandlockTier(
            os.uname().machine,
            abi,
            own_uid=False,
            read=[os.fsencode(path) for path in (*SYSTEM, *names)],
            devices=[b"/dev/null"],
            shared=[b"/dev/shm"],
        )

    def close(self) -> None:
        for descriptor in self.tier.common.descriptors:
            os.close(descriptor)

    def make(self, name: str) -> Path:
        work = self.jobs / name / "work"
        work.mkdir(parents=True)
        (work.parent / "home").mkdir()
        (work / "secret").write_text("content\n")
        return work

    def run(
        self, work: Path, script: str, read: tuple[Path, ...] = (), write: tuple[Path, ...] = ()
    ) -> tuple[int, str]:
        """How it ended, and what it printed."""
        given = Given(
            jobs=os.fsencode(self.jobs),
            own=[os.fsencode(work), os.fsencode(work.parent / "home")],
            read=[os.fsencode(path) for path in read],
            devices=[],
            write=[os.fsencode(path) for path in write],
        )
        self.tier.keep(given)
        rules = self.tier.prepare(given, network=False)
        try:
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=work,
                env={"PATH": "/usr/bin:/bin"},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
                timeout=120,
                close_fds=False,
                preexec_fn=lambda: self.tier.enforce(rules, network=False, sockets=False),
            )
        finally:
            rules.close()
        return done.returncode, done.stdout

    def works(self, work: Path, script: str, **given: tuple[Path, ...]) -> bool:
        return self.run(work, script, **given)[0] == 0

    @property
    def layers(self) -> int:
        return len(self.tier.common.descriptors) - 1


@pytest.fixture
def node(tmp_path: Path, abi: int) -> Iterator[Node]:
    made = Node(tmp_path, abi)
    yield made
    made.close()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the tests have just made counts as made long ago: layers are kept."""
    monkeypatch.setattr(common_rules, "_SETTLED", -1)


@pytest.fixture
def still(settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine changes once it was looked at: whoever else works on it mounts and makes files,
    and layers begin anew whenever that is seen."""
    look = common_rules.CommonRules.renew

    def look_once(rules: common_rules.CommonRules, jobs: bytes) -> None:
        if rules.trees is None:
            look(rules, jobs)

    monkeypatch.setattr(common_rules.CommonRules, "renew", look_once)


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_jobs_do_not_get_at_each_other(node: Node) -> None:
    works = []
    for name in ("first", "second", "third"):  # Two of them are made when there is a layer already.
        works.append(node.make(name))
        own = "cat secret && echo x > new && mkdir -p ../home/a && mv new ../home/a/ && rm -r ../home/a"
        assert node.works(works[-1], own)
    for work in works:
        for other in set(works) - {work}:
            for refused in (
                f"cat {other}/secret",
                f"echo x > {other}/secret",
                f"touch {other}/new",
                f"rm {other}/secret",
                f"mv {other}/secret .",
                f"ln {other}/secret .",
                f"ls {other}",
                f"ls {node.jobs}",
                f"mkdir {node.jobs}/new",
                f"touch {work.parent}/run",
                f"ln -s {other} there; cat there/secret",
                f"cat /proc/self/root{other}/secret",
            ):
                assert not node.works(work, refused), refused
            assert (other / "secret").read_text() == "content\n"
    assert node.layers == 1


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_nothing_else_is_seen_than_by_the_rules_of_one(node: Node) -> None:
    work = node.make("job")
    assert node.works(work, f"cat {node.seen}/file0 && cat {node.seen}/file{SEEN - 1}")
    for refused in (
        f"cat {node.seen}/closed",
        f"ls {node.seen}",
        f"echo x > {node.seen}/file0",
        f"touch {node.seen}/new",
        "cat /etc/passwd",
        "ls /",
        "ls /dev",
        "head -c 1 /dev/zero",
        "ls /tmp",
    ):
        assert not node.works(work, refused), refused
    assert node.works(work, "echo x > /dev/null && echo x > /dev/shm/$$ && rm /dev/shm/$$")
    assert node.layers == 1


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_files_move_between_the_directories_of_a_job_as_ever(node: Node, abi: int) -> None:
    code = "import os; os.rename('secret', '../home/secret'); os.rename('../home/secret', 'secret')"
    assert node.works(node.make("job"), f'python3 -I -S -c "{code}"') == (abi >= 2)


@pytest.fixture(params=["at once", "later"])
def pause(request: pytest.FixtureRequest, node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What passes before something changes: nothing, when no time can tell of it; or all that is needed."""
    if request.param == "at once":
        return lambda: None
    monkeypatch.setattr(common_rules, "_SETTLED", -1)

    def wait() -> None:
        probe, last = node.jobs / "probe", node.seen.stat().st_ctime_ns
        while not probe.exists() or probe.stat().st_ctime_ns <= last:
            probe.write_text("")

    return wait


@needs_landlock
def test_what_is_put_into_the_place_of_a_file_is_seen_by_the_next_job(
    node: Node, pause: Callable[[], None]
) -> None:
    work, file = node.make("job"), node.seen / "file3"
    look = f"cat {file}"
    for content in ("one\n", "two\n", "three\n"):
        new = node.seen / "new"
        new.write_text(content)
        pause()
        new.rename(file)
        assert node.run(work, look) == (0, content)
    pause()
    file.unlink()
    assert not node.works(work, look)
    pause()
    file.write_text("back\n")
    assert node.run(work, look) == (0, "back\n")
    elsewhere = node.seen.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "target").write_text("linked\n")
    pause()
    file.unlink()
    file.symlink_to(elsewhere / "target")
    assert node.run(work, look) == (0, "linked\n")
    (elsewhere / "new").write_text("anew\n")
    (elsewhere / "new").rename(elsewhere / "target")
    assert node.run(work, look) == (0, "anew\n")
    assert not node.works(work, f"cat {node.seen}/closed")


@needs_landlock
def test_a_directory_that_is_replaced_is_seen_by_the_next_job(node: Node, pause: Callable[[], None]) -> None:
    work = node.make("job")
    assert node.works(work, f"cat {node.seen}/file0")
    pause()
    node.seen.rename(node.seen.parent / "before")
    node.seen.mkdir()
    for name in ("file0", "closed"):
        (node.seen / name).write_text("new\n")
    assert node.run(work, f"cat {node.seen}/file0") == (0, "new\n")
    assert not node.works(work, f"cat {node.seen}/closed")
    assert not node.works(work, f"cat {node.seen.parent}/before/file0")


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_jobs_that_are_moved_below_what_is_seen_stay_closed(node: Node) -> None:
    work, other = node.make("job"), node.make("other")
    deep = node.seen / "deep"
    deep.mkdir()
    assert node.works(work, "cat secret")
    node.jobs.rename(deep / "jobs")
    node.jobs.symlink_to(deep / "jobs")
    assert node.works(work, f"cat secret {node.seen}/file0")
    assert not node.works(work, f"cat {other}/secret")
    assert not node.works(work, f"cat {deep}/jobs/other/work/secret")


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_what_a_job_is_given_no_other_has(node: Node) -> None:
    granted, other = node.seen.parent / "granted", node.seen / "closed"
    granted.mkdir()
    (granted / "file").write_text("granted\n")
    first, second = node.make("first"), node.make("second")
    read, write = f"cat {granted}/file {other}", f"echo x > {granted}/new && mv {granted}/new {granted}/old"
    assert node.works(first, read, read=(granted, other))
    assert not node.works(first, write, read=(granted, other))
    assert not node.works(second, f"cat {granted}/file")
    assert not node.works(second, f"cat {other}")
    assert not node.works(second, f"cat {other}", read=(granted,))
    assert node.works(second, write, write=(granted,))
    assert not node.works(first, write, read=(granted,))
    assert not node.works(first, f"ls {node.jobs}", read=(granted,))
    assert not node.works(first, f"cat {second}/secret", write=(granted,))


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_a_grant_is_what_its_links_lead_to_when_the_job_starts(node: Node) -> None:
    work, current = node.make("job"), node.seen.parent / "current"
    for name in ("old", "new"):
        (node.seen.parent / name).mkdir()
        (node.seen.parent / name / "file").write_text(f"{name}\n")
    assert not node.works(work, f"cat {current}/file", read=(current,))
    for name in ("old", "new", "old"):
        current.unlink(missing_ok=True)
        current.symlink_to(name)
        assert node.run(work, f"cat {current}/file", read=(current,)) == (0, f"{name}\n")
    assert not node.works(work, f"cat {node.seen.parent}/new/file", read=(current,))


@needs_landlock
@pytest.mark.usefixtures("settled")
def test_a_script_has_no_descriptors_of_the_layers(node: Node) -> None:
    work = node.make("job")
    node.run(work, ":", read=(node.seen / "closed",))
    code, said = node.run(work, "ls -l /proc/$$/fd")
    assert code == 0
    assert "landlock" not in said and "mountinfo" not in said
    assert all(not os.get_inheritable(each) for each in node.tier.common.descriptors)


@needs_landlock
@pytest.mark.usefixtures("still")
def test_so_many_layers_are_kept_and_no_more(node: Node) -> None:
    work = node.make("job")
    granted = [node.seen.parent / f"granted{number}" for number in range(20)]
    for each in granted:
        each.mkdir()
    open_before = len(os.listdir("/proc/self/fd"))
    for each in granted:
        assert node.works(work, f"ls {each}", read=(each,))
    assert node.layers == 16
    assert len(os.listdir("/proc/self/fd")) <= open_before + 17


@needs_landlock
@pytest.mark.usefixtures("still")
def test_what_jobs_share_is_made_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = landlock.Ruleset.__init__

    def count(rules: landlock.Ruleset, abi: int, *, network: bool) -> None:
        made.append(network)
        make(rules, abi, network=network)

    monkeypatch.setattr(landlock.Ruleset, "__init__", count)
    for name in ("first", "second", "third"):
        assert node.works(node.make(name), "cat secret")
    assert sorted(made) == [False, False, False, True]  # The common one does not look at TCP.


@needs_landlock
def test_few_rules_are_made_for_each(tmp_path: Path) -> None:
    tier = LandlockTier(os.uname().machine, 1, own_uid=False, read=[b"/usr"], devices=[], shared=[])
    given = Given(jobs=os.fsencode(tmp_path), own=[], read=[], devices=[], write=[])
    tier.keep(given)
    tier.prepare(given, network=True).close()
    assert tier.common.descriptors == []


@needs_landlock
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_jobs_that_are_shown_in_two_places_are_closed_in_both(tmp_path: Path) -> None:
    """The directory of jobs comes to be seen within a tree, by a mount."""
    program = ["unshare", "--mount", "--propagation", "private", sys.executable, "-I", "-S"]
    done = subprocess.run(
        [*program, str(HERE / "shown_twice.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    if "unshare failed" in done.stderr:
        pytest.skip("no namespaces of mounts here")
    assert (done.stdout, done.stderr) == ("common: refused\nnot common: refused\ncommon: refused\n", "")


def test_trees_contain_nothing_of_the_grounds() -> None:
    read = [
        b"/etc/a",
        b"/etc/b/c",
        b"/usr/lib/x",
        b"/usr",
        b"/data/shown/a",
        b"/data/node/x",
        b"/dev/pts/0",
        b"/",
    ]
    grounds = [b"/data/node/jobs", b"/dev"]
    expected = (b"/etc", b"/usr", b"/data/shown", b"/data/node/x", b"/dev/pts/0", b"/")
    assert find_trees(read, grounds) == expected
    assert find_trees([b"/data/node/jobs/x", b"/data"], grounds) == (b"/data/node/jobs/x", b"/data")
    assert find_trees([b"/database/x"], [b"/data/jobs"]) == (b"/database",)


def test_a_ground_is_within_no_other() -> None:
    own = [b"/dev/null", b"/dev/pts/ptmx", b"/dev/shm", b"/run/shm"]
    assert find_grounds(b"/data/jobs", own) == [b"/data/jobs", b"/dev", b"/run"]
    assert find_grounds(b"/dev/shm/jobs", own[:1]) == [b"/dev"]
    assert common_rules.is_within(b"/a/b", b"/") and not common_rules.is_within(b"/ab", b"/a")
