"""The example's client for JavaScript, in Node, with a `fetch` that keeps what it is asked."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "examples" / "javascript" / "orchestrator.mjs"
SCRIPT = """
const asked = [];
globalThis.fetch = async (url, options = {}) => {
  const { body } = options;
  const form = body instanceof FormData ? [...body.entries()].filter(([name]) => name !== "file") : null;
  const sent = form ?? (body ? JSON.parse(body) : null);
  asked.push([options.method ?? "GET", url, sent, options.headers["Idempotency-Key"] ?? null]);
  return new Response(JSON.stringify({ id: 7, over: asked.length > 5 }));
};
const { Orchestrator } = await import(process.argv[1]);
const orchestrator = new Orchestrator("http://h:5000/");
const more = { name: "a b", max_runtime: 60, tags: ["x", "y"], memory: undefined };
await orchestrator.submit([["run.sh", "true"]], { service: "s", user: 3, key: "k", ...more });
await orchestrator.cancel(7);
await orchestrator.rerun(7, { key: "again" });
await orchestrator.createBatch([7, 8], "https://portal.example.org/done", { key: "both" });
await orchestrator.wait(7);
console.log(JSON.stringify(asked));
"""


def test_fields_of_an_upload_are_passed_on_and_jobs_cancelled_run_again_named_as_a_batch_and_waited_for() -> (
    None
):
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node; type: apt-get install nodejs")
    command = [node, "--input-type=module", "-e", SCRIPT, CLIENT.as_uri()]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    fields = [
        ["service", "s"],
        ["user_id", "3"],
        ["name", "a b"],
        ["max_runtime", "60"],
        ["tags", "x,y"],
    ]
    assert json.loads(said.stdout) == [
        ["POST", "http://h:5000/upload", fields, "k"],
        ["POST", "http://h:5000/terminate/7", None, None],
        ["POST", "http://h:5000/v1/jobs/7/rerun", None, "again"],
        [
            "POST",
            "http://h:5000/v1/batches",
            {"jobs": [7, 8], "callback_url": "https://portal.example.org/done"},
            "both",
        ],
        *[["GET", "http://h:5000/v1/jobs/7?wait=30&until=ended", None, None]] * 2,
    ]
