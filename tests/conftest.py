"""Under CI nothing is skipped: what would be, fails with its reason, so that no test is lost unseen.

Signals that whoever started the tests has ignored (`nohup`, `&` in a script) are taken again, since what a
test starts inherits that, and Ctrl-C or a closed terminal would end none of it.

What the collection has made stays to the end: the garbage collector does not look through it again and again.

Hypothesis judges no test by its time, which is that of a machine that is busy with the others, too.

In a new clone the workers of a run share what pytest makes of modules of tests before it imports them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

NOTHING_SKIPPED = os.environ.get("CI", "").lower() not in {"", "0", "false"}

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # A handler, so that programs begin with the default, while the tests themselves still outlive it.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Of a worker: import each a share of the modules first. All go through them in one order, so that each
    would find few made ready by another, and work on the assertions of most."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return
    number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    begun = session.config.invocation_params.dir
    modules = sorted(path for one in session.config.args for path in (begun / one).rglob("test_*.py"))
    for path in modules[number % workers :: workers]:
        # What cannot be imported is told of when it is collected.
        with contextlib.suppress(pytest.Collector.CollectError, pytest.skip.Exception):
            _ = pytest.Module.from_parent(session, path=path).obj


def pytest_collection_finish() -> None:
    """Of thousands of tests and all that they import: a seventh of all processor time went into that."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure (xfail) is reported as skipped too, but it was run.
    if NOTHING_SKIPPED and report.skipped and not hasattr(report, "wasxfail"):
        _refuse(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module that skips itself (importorskip) never comes to makereport."""
    report = yield
    if NOTHING_SKIPPED and report.skipped:
        _refuse(report, collector.nodeid)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport, nodeid: str) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{nodeid}: skipped, and CI is set, where nothing may be: {reason}"
