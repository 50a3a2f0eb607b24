"""Send an orchestrator requests that are made up from its OpenAPI document, good ones and bad ones.

Starts a server and a node on free ports, with jobs in several states. No answer may be a 5xx, have a status,
content type or body that the document does not tell of, take what the document forbids, refuse what it
allows, or be given without a token where the document wants one. The same seed makes the same requests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click
from testbed import api_hooks
from testbed.cluster import ClusterFailed, Limits, running_cluster

from orchestrator.access.token_files import OPERATOR_FILE, read_token
from orchestrator.client import Client

CONFIG: Final = """\
hooks = {hooks!r}
request-timeout = 8
max-stream-events = 3
[headers]
Authorization = "Bearer {token}"
[generation]
database = "none"
# What these take depends on what there is: cursors, services, nodes that answer, keys that were used before,
# hosts that may be told; and a log is read from an offset or by its tail, which the document cannot say.
[[operations]]
include-operation-id = [
  "upload", "createBatch", "joinNode", "listJobs", "files", "rerun", "createToken", "logIn", "audit",
  "openLink", "logs", "usage", "queue"
]
checks.positive_data_acceptance.enabled = false
"""
WAITING: Final = 6


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--seed", type=int, default=1, help="What the requests are made up from.")
@click.option("--examples", type=click.IntRange(1, 10_000), default=20, help="Of each operation at most.")
@click.option("--seconds", type=click.IntRange(1, 86_400), default=None, help="Go on for so long instead.")
def main(*, seed: int, examples: int, seconds: int | None) -> None:
    """Try every route of a running orchestrator with requests made up from its OpenAPI document."""
    try:
        with tempfile.TemporaryDirectory(prefix="orchestrator-fuzz-") as name:
            directory = Path(name).resolve()
            limits = Limits(runs_per_user=2, max_runs=2, upload_limit=1 << 20)
            closed = {"OPEN_LOCAL": "0"}
            with running_cluster(directory, nodes=1, slots=2, limits=limits, more=closed) as cluster:
                token = read_token((directory / "server" / "data" / OPERATOR_FILE).read_text())
                prepare(cluster.url, token)
                config = directory / "schemathesis.toml"
                hooks = str(Path(api_hooks.__file__).resolve())
                config.write_text(CONFIG.format(hooks=hooks, token=token))
                status = _fuzz(cluster.url, config, seed, examples, seconds)
                cluster.check()
                failures = _failures(directory / "server.log")
    except ClusterFailed as error:
        print(f"fuzz_api: {error}", file=sys.stderr)
        sys.exit(1)
    print(failures, end="")
    sys.exit(1 if status or failures else 0)


def prepare(url: str, token: str) -> None:
    """Jobs as `api_hooks.ENDED` tells, one that runs, and some that wait."""
    scripts = (
        b"mkdir d; echo x >'d/a b'; printf 'caf\\351\\n'",
        b"echo err >&2; exit 3",
        b"sleep 600",
        b"true",
    )
    with Client(url, token=token) as client:
        ended = [client.submit({"run.sh": script}, user=1).id for script in scripts]
        client.cancel(ended[2])
        for number in ended:
            client.wait(number, 60)
        client.delete(ended[3])
        if tuple(ended) != api_hooks.ENDED:
            raise ClusterFailed(f"the first jobs are {ended}")
        client.submit({"run.sh": b"echo begun; sleep 3600"}, user=2, name="long", tags=["a"])
        for _ in range(WAITING):
            client.submit({"run.sh": b"sleep 3600", "in.txt": b"abc"}, user=2)


def _fuzz(url: str, config: Path, seed: int, examples: int, seconds: int | None) -> int:
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    command += [f"{url}/api-docs/openapi.json", "--no-color", "--warnings", "off", "--seed", str(seed)]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)]
    if seconds is not None:
        command += ["--max-time", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}
    return subprocess.run(command, cwd=config.parent, env=environment, check=False).returncode


def _failures(log: Path) -> str:
    """What the server did not foresee, from its log."""
    text = log.read_text(errors="replace")
    return text if "Traceback" in text else ""


if __name__ == "__main__":
    main()
