"""What a dead disk may cost, as scripts/dead_disk.py judges it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from dead_disk import Loss, Outage, Sent, main

END = 20.0
LINKED = Outage(cut=END, mended=END, end=END, log=0, away=0.0)
MENDED = Outage(cut=7.0, mended=10.0, end=END, log=0, away=0.0)
CUT = Outage(cut=17.0, mended=END, end=END, log=0, away=0.0)


@pytest.mark.parametrize(
    ("outage", "at", "promised"),
    [
        (LINKED, 19.0, True),
        (LINKED, 17.0, False),
        (MENDED, 9.0, False),
        (CUT, 17.5, True),
        (CUT, 14.0, False),
    ],
)
def test_only_what_was_answered_in_the_last_moment_or_since_the_cut_may_be_lost(
    outage: Outage, at: float, promised: bool
) -> None:
    job = Sent(1, at, large=False)
    assert Loss([job], [job], 0, [], 0).as_promised(outage) == promised


def test_no_small_job_may_end_badly() -> None:
    assert Loss([], [], 0, [], 0).as_promised(LINKED)
    assert not Loss([], [], 0, ["job 1 is Failed"], 0).as_promised(LINKED)


def test_only_a_link_can_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dead_disk.find", lambda program, _remedy: program)
    done = CliRunner().invoke(main, ["--cut", "3"])
    assert (done.exit_code, "--cut: there is a link with --to sftp alone" in done.output) == (2, True)
