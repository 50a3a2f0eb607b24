"""What bwrap is told: in which order, and that nothing of a path is taken for an option."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.confinement import bubblewrap
from node.confinement.tier_facts import BUBBLEWRAP, TierFacts

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
PLACES = st.lists(PATHS, unique=True, max_size=4)


def _command(network: bool = False, containers: bool = False, read: tuple[bytes, ...] = ()) -> list[bytes]:
    return bubblewrap.add_script(
        [b"/usr/bin/bwrap", b"--unshare-user"],
        network=network,
        containers=containers,
        read=read,
        filters=[7],
        work=b"/work",
        block=3,
        info=4,
    )


@given(st.booleans(), st.booleans())
def test_a_network_and_namespaces_of_its_own_are_there_unless_they_are_granted(
    network: bool, containers: bool
) -> None:
    command = _command(network=network, containers=containers)
    assert (b"--unshare-net" in command) is not network
    assert (b"--disable-userns" in command) is not containers
    assert _follows(command, [b"--cap-drop", b"ALL"]), "what covers the machine's files could be taken away"


def test_of_what_is_given_bwrap_binds_what_lies_in_its_own_proc_alone() -> None:
    command = _command(read=(b"/proc/driver/card", b"/procedures"))
    assert _follows(command, [b"--ro-bind-try", b"/proc/driver/card", b"/proc/driver/card"])
    assert b"/procedures" not in command
    assert command[-1] == b"--"


def _follows(command: list[bytes], words: list[bytes]) -> bool:
    return any(command[at : at + len(words)] == words for at in range(len(command)))


@given(st.booleans(), st.booleans())
def test_what_is_roots_in_proc_is_closed_to_root_alone_and_its_shepherd_to_who_is_its_user(
    own_uid: bool, root: bool
) -> None:
    command = bubblewrap.begin("/usr/bin/bwrap", own_uid=own_uid, root=root)
    assert ("/proc/1" in command) is not own_uid
    assert ("/proc/sys" in command) is (root and not own_uid)
    assert ("/proc/timer_list" in command) is (root and not own_uid)


@given(st.booleans(), st.dictionaries(NAMES, PLACES, max_size=4))
def test_what_a_spawner_is_told_arrives_as_it_was(own_uid: bool, lists: dict[str, list[str]]) -> None:
    facts = TierFacts(BUBBLEWRAP, own_uid=own_uid, lists=lists)
    told = TierFacts.unpack(facts.pack())
    assert (told.tier, told.own_uid, told.lists) == (facts.tier, own_uid, facts.lists)
