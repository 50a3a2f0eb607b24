"""Make a client in TypeScript out of a running server's OpenAPI document, and let it run a job.

Starts a server and a node on free ports, installs by npm what examples/javascript/typed asks for, makes the
types with openapi-typescript, has tsc check the example against them, and runs it with openapi-fetch.
Needs node and npm, and a registry that npm reaches; therefore it is run by hand, and not by .ci/run.
The same for Python is a test, tests/system/test_generated_clients.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click
import httpx
from testbed.cluster import ClusterFailed, running_cluster

from orchestrator.access.token_files import OPERATOR_FILE, read_token

EXAMPLE: Final = Path(__file__).resolve().parents[1] / "examples" / "javascript" / "typed"
EXPECTED: Final = {
    "status": "Completed",
    "tags": ["a", "b"],
    "log": "hello\n",
    "file": [0x89, *b"PNG"],
    "refused": "unknown_job",
}
SECONDS: Final = 300


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Try the example in TypeScript against a running orchestrator."""
    if shutil.which("npm") is None:
        print("try_typescript: there is no npm; type: apt-get install npm", file=sys.stderr)
        sys.exit(1)
    try:
        with tempfile.TemporaryDirectory(prefix="orchestrator-typescript-") as name:
            directory = Path(name).resolve()
            with running_cluster(directory, nodes=1, slots=1) as cluster:
                token = read_token((directory / "server" / "data" / OPERATOR_FILE).read_text())
                printed = try_example(cluster.url, token, directory / "typed")
    except (ClusterFailed, subprocess.SubprocessError) as error:
        print(f"try_typescript: {error}", file=sys.stderr)
        sys.exit(1)
    print(printed, end="")
    got = json.loads(printed)
    if got.pop("zip") == 0 or got != EXPECTED:
        print(f"try_typescript: expected a zip and {json.dumps(EXPECTED)}", file=sys.stderr)
        sys.exit(1)


def try_example(url: str, token: str, place: Path) -> str:
    """What the example prints."""
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("node_modules", "out"))
    headers = {"Authorization": f"Bearer {token}"}
    document = httpx.get(f"{url}/api-docs/openapi.json", headers=headers, trust_env=False)
    (place / "openapi.json").write_text(document.raise_for_status().text)
    environment = {**os.environ, "ORCHESTRATOR_URL": url, "ORCHESTRATOR_TOKEN": token}
    for command in (["npm", "install", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=place, env=environment, stdout=sys.stderr, timeout=SECONDS, check=True)
    command = ["npm", "run", "--silent", "start"]
    done = subprocess.run(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
