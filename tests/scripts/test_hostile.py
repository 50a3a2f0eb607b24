"""A short run of scripts/hostile.py, and that it finds out what is not contained."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from testbed.hostile.promises import BASH, BUBBLEWRAP, TRIALS, Setup
from testbed.hostile.run import Outcome, Seen, run
from testbed.hostile.table import BEGIN, END, broken, to_markdown, write_into

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


def test_a_broken_promise_is_told(tmp_path: Path) -> None:
    seen = Seen(Setup(BUBBLEWRAP, uids=True), {"shadow": Outcome("shadow", reached=True)})
    assert broken(seen) == ["shadow: read `/etc/shadow`"]
    assert not broken(Seen(Setup(BASH, uids=True), {"shadow": Outcome("shadow", reached=True)}))
    assert broken(Seen(Setup(BASH, uids=True), wrong=["an ordinary job failed"]))
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(document, to_markdown([seen]))
    write_into(document, to_markdown([seen]))
    text = document.read_text()
    assert "| read `/etc/shadow` | **PROMISED, NOT CONTAINED** |\n" in text and "old" not in text
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    document.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        write_into(document, "")
