"""The alerts and the dashboard: what they ask for is told, and alerts fire and are over again."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.processes.api_server import api_server

from actors.kernel.actor import Mailbox
from actors.kernel.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=Path(sys.executable).parent)
_SERIES = re.compile(r"\b(?:orchestrator|process)_[a-z_]+\b")

with_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="needs promtool (scripts/setup --dev brings it from Debian's package prometheus)"
)


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def queries() -> Iterable[str]:
    """Of the dashboard, with values for what Grafana puts in."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield (
                target["expr"]
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*")
                .replace("$service", ".*")
            )


@with_promtool
def test_the_alerts_can_be_loaded() -> None:
    promtool("check", "rules", "--lint-fatal", str(ALERTS))


@with_promtool
def test_alerts_fire_and_are_over_again(tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts_test.yaml").read_text()
    (tmp_path / "cases.yaml").write_text(cases.replace("{{rules}}", str(ALERTS)))
    promtool("test", "rules", str(tmp_path / "cases.yaml"))


@with_promtool
def test_the_queries_of_the_dashboard_can_be_read(tmp_path: Path) -> None:
    # JSON is YAML, too.
    rules = [{"record": f"dashboard:{n}", "expr": query} for n, query in enumerate(queries())]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


async def test_what_is_asked_for_is_told(tmp_path: Path) -> None:
    """Also before anything has happened: a query of a name that nobody tells answers nothing, silently."""
    async with api_server(tmp_path) as server:
        server.api.metrics.watch_actors([Mailbox("sender")], Supervisor(random.Random()))
        text = (await server.client.get("/metrics")).text
    told = set(re.findall(r"^# TYPE ([a-z_]+) ", text, re.MULTILINE))
    told |= {f"{name}_{part}" for name in told for part in ("bucket", "count", "sum")}
    asked = set(_SERIES.findall(ALERTS.read_text()))
    for query in queries():
        asked.update(_SERIES.findall(query))
    assert len(asked) > 20
    assert {name for name in asked - told if not name.startswith("orchestrator_scaling_")} == set()
