"""What scripts see of a machine: of machines made up, of trees on disk, and of this one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.confinement import landlock, visible
from node.confinement.visible import (
    Account,
    Entry,
    MachineFiles,
    Unseen,
    View,
    find_private,
    find_unseen,
    find_visible,
)

HERE: Final = Path(__file__).parent
ROOT: Final = Account(0, frozenset({0}))
SERVICE: Final = Account(900, frozenset({900, 4}))


@dataclass
class Node:
    """A file, a directory (`inside`) or a link (`target`) of a machine that is made up."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    inside: dict[str, Node] | None = None
    target: str | None = None


def directory(mode: int = 0o755, uid: int = 0, gid: int = 0, /, **inside: Node) -> Node:
    return Node(mode, uid, gid, {name.replace("_dot_", "."): node for name, node in inside.items()})


def link(target: str) -> Node:
    return Node(0o777, target=target)


@dataclass
class MadeUp:
    root: Node
    listed: list[str] = field(default_factory=list)

    def find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for name in path.split("/"):
            if name and node is not None:
                node = (node.inside or {}).get(name)
        return node

    def entries(self, directory: str) -> Iterable[Entry]:
        self.listed.append(directory)
        found = self.find(directory)
        if found is None or found.inside is None:
            raise NotADirectoryError(directory)
        for name, node in found.inside.items():
            kind = stat.S_IFDIR if node.inside is not None else stat.S_IFLNK if node.target else stat.S_IFREG
            yield Entry(name, kind | node.mode, node.uid, node.gid)

    def resolve(self, path: str) -> str:
        at = "/"
        for place, name in enumerate(names := [each for each in path.split("/") if each]):
            at = os.path.normpath(os.path.join(at, name))
            node = self.find(at)
            if node is not None and node.target is not None:
                leads = os.path.normpath(os.path.join(os.path.dirname(at), node.target))
                return self.resolve(os.path.join(leads, *names[place + 1 :]))
        return at

    def target(self, link: str) -> str:
        found = self.find(link)
        assert found is not None
        assert found.target is not None
        return found.target

    def walk(self) -> Iterator[tuple[str, list[Node]]]:
        """Every path that is no link, with all that is on the way to it."""
        waiting: list[tuple[str, list[Node]]] = [("/", [self.root])]
        while waiting:
            path, way = waiting.pop()
            yield path, way
            for name, node in (way[-1].inside or {}).items():
                if node.target is None:
                    waiting.append((f"{path.rstrip('/')}/{name}", [*way, node]))


def reads(way: list[Node], account: Account | None) -> bool:
    """Whether the kernel lets a user read a file, or list a directory. No account: any other user."""
    bits = []
    for node in way:
        mine = account is not None and node.uid == account.uid
        ours = account is not None and node.gid in account.groups
        bits.append(node.mode >> (6 if mine else 3 if ours else 0) & 0o7)
    if way[-1].inside is not None:
        return all(each & 1 for each in bits) and bool(bits[-1] & 4)
    return all(each & 1 for each in bits[:-1]) and bool(bits[-1] & 4)


def within(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


names: Final = st.sampled_from(["a", "b", "c"])
owned: Final = {"uid": st.sampled_from([0, 5, 900]), "gid": st.sampled_from([0, 4, 5])}
files: Final = st.builds(Node, mode=st.sampled_from([0o644, 0o640, 0o600, 0o755, 0o711, 0o004]), **owned)
links: Final = st.builds(link, st.sampled_from(["/a", "b/c", "../c"]))


def directories(inside: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    modes = st.sampled_from([0o755, 0o755, 0o755, 0o750, 0o700, 0o711, 0o751])
    return st.builds(
        Node, mode=modes, inside=st.dictionaries(names, inside, max_size=3), target=st.none(), **owned
    )


trees: Final = st.recursive(files | links, directories, max_leaves=20)
roots: Final = st.dictionaries(names, trees, max_size=3).map(lambda inside: Node(0o755, inside=inside))
paths: Final = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@given(roots, st.frozensets(paths, max_size=3), st.sampled_from([None, ROOT, SERVICE]))
def test_scripts_see_what_any_user_may_read_and_nothing_private(
    root: Node, private: frozenset[str], account: Account | None
) -> None:
    machine = MadeUp(root)
    view = find_visible(machine, private, account)
    for path, way in machine.walk():
        listed = within(path, view.read)
        bound = within(path, view.binds) and not within(path, view.covered)
        if not reads(way, account):
            continue
        everybodys = reads(way, None) and not within(path, private)
        if way[-1].inside is None:
            assert (listed, bound) == (everybodys, everybodys), path
        else:  # A directory with something closed is not listed: only what is in it is seen.
            assert not listed or everybodys, path
            assert not bound or not within(path, private), path


@given(roots, st.frozensets(paths, max_size=3), st.sampled_from([None, ROOT]))
def test_nothing_is_said_twice(root: Node, private: frozenset[str], account: Account | None) -> None:
    machine = MadeUp(root)
    view = find_visible(machine, private, account)
    for path in view.read:
        assert not within(os.path.dirname(path), view.read)
        assert machine.find(path) is not None
    for path, target in view.links:
        assert machine.target(path) == target
        assert not within(path, view.read)


def test_siblings_of_a_private_place_are_listed_one_by_one() -> None:
    machine = MadeUp(
        directory(
            usr=directory(bin=directory(ls=Node(0o755))),
            bin=link("usr/bin"),
            srv=directory(data=directory(node=directory()), databases=directory(pdb=Node()), readme=Node()),
            home=directory(ann=directory()),
        )
    )
    view = find_visible(machine, frozenset({"/srv/data/node", "/home"}), None)
    assert view == View(
        read=("/srv/databases", "/srv/readme", "/usr"),
        links=(("/bin", "usr/bin"),),
        binds=("/srv", "/usr"),
        covered=("/srv/data/node",),
        left_out=(),
        private=frozenset({"/srv/data/node", "/home"}),
    )
    assert "/usr" not in machine.listed
    assert view.shows("/usr/bin/ls")
    assert not view.shows("/usrx")
    assert not view.shows("/srv/data/node/x")
    assert view.shows("/srv/data/node/x", ["/srv/data/node"])


def test_a_private_place_that_comes_later_is_not_seen_either() -> None:
    machine = MadeUp(directory(srv=directory(app=Node())))
    assert find_visible(machine, frozenset({"/srv/data"}), None).read == ("/srv/app",)


def test_of_root_only_what_any_user_may_read() -> None:
    etc = directory(
        passwd=Node(), shadow=Node(0o640, 0, 42), ssl=directory(0o755, key=Node(0o600), pem=Node())
    )
    polkit = directory(0o700, 105, rules=Node())
    machine = MadeUp(directory(etc=etc, usr=directory(share=directory(polkit=polkit)), gone=directory(0o700)))
    view = find_visible(machine, frozenset(), ROOT)
    assert view.read == ("/etc/passwd", "/etc/ssl/pem", "/usr")  # The kernel keeps root out of polkit's.
    assert view.covered == ("/etc/shadow", "/etc/ssl/key")
    assert find_visible(machine, frozenset(), None).read == ("/etc", "/usr")
    assert find_visible(machine, frozenset(), SERVICE).read == ("/etc", "/usr")


def test_a_tree_that_is_too_large_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible, "_MOST", 3)
    many = directory(0o755, **{f"f{number}": Node() for number in range(9)})
    machine = MadeUp(directory(data=directory(deep=many), usr=many, opt=directory(tool=Node())))
    view = find_visible(machine, frozenset(), ROOT)
    assert (view.read, view.left_out) == (("/opt", "/usr"), ("/data",))
    assert find_visible(machine, frozenset(), None).left_out == ()


def test_a_tree_without_an_end_is_cut() -> None:
    node = Node()
    for _ in range(1500):
        node = directory(d=node)
    view = find_visible(MadeUp(directory(srv=directory(d=node, file=Node()))), frozenset(), ROOT)
    assert view.read == ("/srv/file",)
    assert len(view.covered) == 1


def test_private_are_homes_of_people_and_what_is_given() -> None:
    passwd = """root:x:0:0::/root:/bin/bash
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
postgres:x:105:110::/var/lib/postgresql:/bin/bash
ann:x:1000:1000::/export/ann:/bin/bash
app:x:1001:1001::/:/bin/bash
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
"""
    machine = MadeUp(
        directory(export=directory(ann=link("/disk/ann")), srv=directory(node=link("../disk/node")))
    )
    found = find_private(machine, passwd, ["/var/lib/node"], ["/srv/node"])
    assert found == {*visible.PRIVATE, "/disk/ann", "/disk/node", "/var/lib/node"}


def test_programs_that_are_not_seen_are_named_with_what_to_read() -> None:
    tools = directory(bin=directory(gmx=Node(0o755)), lib=directory())
    conda = directory(bin=directory(conda=Node(0o755), python=Node(0o755)))
    machine = MadeUp(
        directory(
            usr=directory(
                bin=directory(ls=Node(0o755)),
                local=directory(
                    bin=directory(gmx=link("/home/tools/bin/gmx"), own=Node(), ls=link("/usr/bin/ls"))
                ),
            ),
            home=directory(tools=tools, ann=directory(conda=conda, bin=directory(x=Node()))),
        )
    )
    private = frozenset({"/home", "/home/ann"})
    view = find_visible(machine, private, None)
    path = "/home/ann/conda/bin:/usr/local/bin:/usr/bin:/nowhere:relative:/home/ann/bin:/home/ann/conda/bin"
    assert find_unseen(machine, path, view, private) == [
        Unseen("/home/ann/conda/bin", ("conda", "python"), "/home/ann/conda"),
        Unseen("/usr/local/bin", ("gmx",), "/home/tools"),
        Unseen("/home/ann/bin", ("x",), "/home/ann/bin"),
    ]
    assert find_unseen(machine, path, view, private, ["/home"]) == []


class Below(MachineFiles):
    """A tree on disk, as if it were a machine of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)

    def entries(self, directory: str) -> Iterator[Entry]:
        return super().entries(self._directory + directory)

    def target(self, link: str) -> str:
        return super().target(self._directory + link)


def test_a_tree_on_disk(tmp_path: Path) -> None:
    account = Account(os.geteuid(), frozenset(os.getgroups()))
    for name, mode in (
        ("usr/bin/ls", 0o755),
        ("etc/open", 0o644),
        ("etc/closed", 0o600),
        ("srv/data/x", 0o644),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.chmod(mode)
    for each in tmp_path.rglob("*"):
        if each.is_dir():
            each.chmod(0o755)
    (tmp_path / "bin").symlink_to("usr/bin")
    os.mkfifo(tmp_path / "etc" / "fifo", 0o600)
    view = find_visible(Below(tmp_path), frozenset({"/srv/data"}), account)
    assert view == View(
        read=("/etc/open", "/usr"),
        links=(("/bin", "usr/bin"),),
        binds=("/etc", "/usr"),
        covered=("/etc/closed", "/etc/fifo"),
        left_out=(),
        private=frozenset({"/srv/data"}),
    )


@pytest.fixture(scope="module")
def this_machine() -> tuple[View, frozenset[str]]:
    machine = MachineFiles()
    private = find_private(machine, Path("/etc/passwd").read_text(), [os.path.expanduser("~")], [str(HERE)])
    account = Account(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
    return find_visible(machine, private, account), private


@pytest.mark.skipif(landlock.find_abi() == 0, reason="no Landlock in this kernel")
def test_of_this_machine_programs_run_and_nothing_private_is_read(
    this_machine: tuple[View, frozenset[str]], tmp_path: Path
) -> None:
    view, _ = this_machine
    options = {
        "abi": landlock.find_abi(),
        "read": [*view.read, *filter(os.path.exists, visible.OF_THE_KERNEL)],
        "device": ["/dev/null"],
        "write": [str(tmp_path)],
    }
    launcher = [sys.executable, "-I", "-S", str(HERE / "under_landlock.py"), json.dumps(options)]
    script = """
set -e
ls /usr/bin > ls; grep -q '^root:' /etc/passwd; nproc > /dev/null; date +%Z; env true; sort ls | tail -1
cat /sys/devices/system/cpu/online; getconf _NPROCESSORS_ONLN
for closed in /etc/shadow "$1"; do ! cat "$closed" 2>/dev/null || exit 3; done
! ls /home /root /tmp 2>/dev/null || exit 4
"""
    done = subprocess.run(
        [*launcher, "bash", "-c", script, "bash", str(HERE / "test_visible.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_of_this_machine_all_paths_are_real(this_machine: tuple[View, frozenset[str]]) -> None:
    view, private = this_machine
    assert view.shows("/usr/bin/env")
    assert {path for path in view.read if os.path.realpath(path) != path} == set()
    assert not any(within(path, private) for path in view.read)
