"""What a node tells Prometheus, and whom."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from support.processes.nodes_in_process import NodeInProcess, node_in_process

TOKEN = "t" * 16
SHOWN = {"Authorization": f"Bearer {TOKEN}"}
RUN = ("file", ("run.sh", b"true\n"))


async def scrape(node: NodeInProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = await node.client.get("/metrics", headers=SHOWN)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_nobody_reads_the_numbers_without_the_token(tmp_path: Path) -> None:
    async with node_in_process(tmp_path / "none") as node:
        answer = await node.client.get("/metrics", headers=SHOWN)
        assert answer.status_code == 403 and "METRICS_TOKEN_FILE" in answer.json()["message"]
    async with node_in_process(tmp_path / "one", metrics_token=TOKEN) as node:
        for shown in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            assert (await node.client.get("/metrics", headers=shown)).status_code == 401, shown
        assert (await node.client.get("/metrics", headers=SHOWN)).status_code == 200


async def test_jobs_are_counted_once(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, metrics_token=TOKEN, slots=3) as node:
        found = await scrape(node)
        assert found["node_slots", frozenset()] == 3
        assert found["node_jobs_held", frozenset()] == 0
        payload = (await node.client.post("/submit", files=[RUN])).json()
        run = await node.executor.run_of(Path(str(payload["loc"])).parent.name)
        assert (await scrape(node))["node_jobs_held", frozenset()] == 1
        run.finish()
        await node.until(run.spec.key, "Completed")
        found = await scrape(node)
        assert found["node_jobs_ended_total", frozenset({("status", "Completed")})] == 1
        assert found["node_jobs_held", frozenset()] == 0
        assert ("node_mailbox_messages", frozenset({("actor", "runner")})) in found
        assert "process_open_fds" in {name for name, _ in found}


async def test_made_up_paths_make_no_labels(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, metrics_token=TOKEN) as node:
        for n in range(20):
            await node.client.get(f"/made-up/{n}")
            await node.client.get(f"/retrieve/made-up-{n}")
        found = await scrape(node)
        assert "made-up" not in str(found)
        routes = {labels for name, labels in found if name == "node_http_request_seconds_count"}
        assert len(routes) <= 4, routes
