"""Code that a generator makes out of the OpenAPI document: it submits, waits and fetches by itself."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes.processes import Started

PACKAGE = "generated_from_openapi"


@pytest.fixture(scope="module")
def generated(shared: Started, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the package that openapi-python-client makes, and says no word about."""
    place = tmp_path_factory.mktemp("generated")
    document = place / "openapi.json"
    document.write_text(httpx.get(f"{shared.url}/api-docs/openapi.json", trust_env=False, timeout=60).text)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document)]
    command += ["--output-path", str(place / PACKAGE), "--meta", "none", "--fail-on-warning"]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    said = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": path, "HOME": str(place)},
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield PACKAGE


@pytest.fixture
def client(shared: Started, generated: str) -> Iterator[Any]:
    made = importlib.import_module(generated).Client(
        base_url=shared.url, raise_on_unexpected_status=True, timeout=60
    )
    with made as entered:
        yield entered


def _operation(package: str, tag: str, name: str) -> Any:
    return importlib.import_module(f"{package}.api.{tag}.{name}")


def test_a_client_made_for_python_submits_waits_and_fetches(generated: str, client: Any) -> None:
    models, types = (
        importlib.import_module(f"{generated}.models"),
        importlib.import_module(f"{generated}.types"),
    )

    def ask(name: str, tag: str = "v1", **arguments: Any) -> Any:
        return _operation(generated, tag, name).sync(client=client, **arguments)

    script = b"mkdir d; cat in.txt; printf '\\211PNG' >'d/a b.png'; echo e >&2\n"
    files = [
        types.File(io.BytesIO(data), name, "application/octet-stream")
        for name, data in (("run.sh", script), ("in.txt", "caf\u00e9\n".encode()))
    ]
    upload = models.Upload(
        user_id=61, service="example", name="made", tags=["a", "b"], max_runtime=60, file=files
    )
    accepted = ask("upload", "contract", body=upload, idempotency_key="one")
    assert ask("upload", "contract", body=upload, idempotency_key="one").id == accepted.id
    job = ask("job", id=accepted.id)
    while job.ended_at is None:
        job = ask("job", id=accepted.id, wait=30)
    assert (job.status, job.tags, job.exit_code) == (models.Status.COMPLETED, ["a", "b"], 0)

    for zipped in (ask("download", "contract", id=job.id), ask("results", id=job.id)):
        assert zipped.payload.read(4) == b"PK\3\4"
    assert ask("logs", id=job.id).payload.read() == "caf\u00e9\n".encode()
    paths = [item.path for item in ask("files", id=job.id).items]
    assert paths == ["d", "d/a b.png", "in.txt", "run.sh", "stderr.log", "stdout.log"]
    assert ask("file", id=job.id, path="d/a b.png").payload.read() == b"\x89PNG"
    assert '"status": "Completed"' in ask("job_events", id=job.id)
    assert ask("history", id=job.id).items[-1].to is models.Status.COMPLETED
    assert [item.id for item in ask("list_jobs", user=61).items] == [job.id]

    again = ask("rerun", id=job.id)
    assert (again.rerun_of, again.user_id) == (job.id, 61)
    assert ask("terminate", "contract", id=again.id).status in set(models.Status)
    assert ask("job", id=(1 << 32) - 1).code == "unknown_job"


@pytest.mark.parametrize(
    "name",
    ["activity", "audit", "nodes", "queue", "scaling", "services", "session", "tokens", "troubles", "usage"],
)
def test_a_client_made_for_python_reads_what_the_server_tells(name: str, generated: str, client: Any) -> None:
    answer = _operation(generated, "v1", name).sync_detailed(client=client)
    assert answer.status_code == 200
    assert type(answer.parsed).__name__ == f"{name.capitalize()}Response200"
