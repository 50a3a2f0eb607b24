"""A short run of scripts/hostile.py, and that it finds out what is not contained."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from testbed.hostile.promises import ABIS, BASH, BUBBLEWRAP, LANDLOCK, SIGNALS, TRIALS, Setup
from testbed.hostile.run import Outcome, Seen, run
from testbed.hostile.table import BEGIN, END, TIERS_MARK, broken, to_markdown, write_into

from node.confinement import landlock

NOT_KEPT_FROM_BASH = {
    *("job-input", "job-home", "job-result", "ledger", "operator-token", "private-file", "hard-link"),
    *("own-record", "write-tmp", "write-job", "write-data", "mode", "times", "rename", "terminal", "udp"),
    *("metadata", "docker", "abstract", "listen", "tcp-node", "tcp-orchestrator", "shm-left", "segment-left"),
}


def test_where_nothing_contains_them_hostile_jobs_reach_what_they_are_after_and_leave_nothing(
    tmp_path: Path,
) -> None:
    everywhere = (name for name, trial in TRIALS.items() if trial.everywhere and not trial.alone)
    names = {*NOT_KEPT_FROM_BASH, *everywhere}
    seen = run(tmp_path, Setup(BASH, uids=False), names, lambda: None)
    assert not broken(seen)
    assert {name for name, outcome in seen.outcomes.items() if outcome.reached} == NOT_KEPT_FROM_BASH
    assert seen.ordinary > 2
    assert not list(Path("/dev/shm").glob("hostile-*-shm*"))


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bwrap")
def test_where_they_are_contained_they_reach_nothing(tmp_path: Path) -> None:
    names = {name for name, trial in TRIALS.items() if not trial.alone}
    seen = run(tmp_path, Setup(BUBBLEWRAP, uids=os.geteuid() == 0), names, lambda: None)
    assert not broken(seen)
    assert seen.outcomes.keys() == names and len(names) > 70
    assert seen.ordinary > 2


@pytest.mark.skipif(landlock.find_abi() == 0, reason="no Landlock in this kernel")
def test_an_older_landlock_contains_what_it_knows_and_no_more(tmp_path: Path) -> None:
    reached = {"signal-node", "signal-other", "mode", "times", "arguments", "shm-left"}
    contained = {"ledger", "private-file", "rename", "truncate", "tcp-node", "abstract", "trace-other"}
    seen = run(tmp_path, Setup(LANDLOCK, uids=False, abi=1), {*reached, *contained, "kill-all"}, lambda: None)
    assert not broken(seen)
    assert {name for name, outcome in seen.outcomes.items() if outcome.reached} == reached
    assert seen.outcomes["kill-all"].reached is None, "it would have killed what else runs here"


def test_what_is_promised_of_a_version_is_what_it_has() -> None:
    for abi in ABIS:
        alone, own = Setup(LANDLOCK, uids=False, abi=abi), Setup(LANDLOCK, uids=True, abi=abi)
        assert TRIALS["signal-node"].promised(alone) is (abi >= SIGNALS) is TRIALS["kill-all"].tried(alone)
        assert TRIALS["kill-all"].tried(own) and TRIALS["signal-node"].promised(own)
        assert not TRIALS["arguments"].promised(own), "there are no namespaces"
        assert TRIALS["tcp-node"].promised(alone), "the filter refuses sockets"
    assert TRIALS["signal-node"].promised(Setup(LANDLOCK, uids=False))


def test_a_broken_promise_is_told(tmp_path: Path) -> None:
    seen = Seen(Setup(BUBBLEWRAP, uids=True), {"shadow": Outcome("shadow", reached=True)})
    assert broken(seen) == ["shadow: read `/etc/shadow`"]
    assert not broken(Seen(Setup(BASH, uids=True), {"shadow": Outcome("shadow", reached=True)}))
    assert broken(Seen(Setup(BASH, uids=True), wrong=["an ordinary job failed"]))
    document = tmp_path / "document.md"
    begin = BEGIN.format(TIERS_MARK)
    document.write_text(f"before\n{begin}\nold\n{END}\nafter\n")
    write_into(document, TIERS_MARK, to_markdown([seen]))
    write_into(document, TIERS_MARK, to_markdown([seen]))
    text = document.read_text()
    assert "| read `/etc/shadow` | **PROMISED, NOT CONTAINED** |\n" in text and "old" not in text
    assert text.startswith(f"before\n{begin}\n") and text.endswith(f"{END}\nafter\n")
    document.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        write_into(document, TIERS_MARK, "")


def test_a_table_of_versions_has_what_differs_and_counts_the_rest() -> None:
    setups = [Setup(LANDLOCK, uids=False, abi=abi) for abi in (1, 7)]
    one, seven = (
        Seen(setup, {name: Outcome(name, reached=False) for name in ("shadow", "ledger", "signal-node")})
        for setup in setups
    )
    one.outcomes["signal-node"].reached = True
    assert to_markdown([one, seven], only_differing=True).splitlines() == [
        "| a job tries to | landlock 1, no uids of their own | landlock 7, no uids of their own |",
        "| --- | --- | --- |",
        "| signal the node | not contained | contained |",
        "| 2 other things of the table above | contained | contained |",
    ]
