"""What scripts/build makes is whole, and runs where nothing else of the project is."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PathDistribution
from pathlib import Path

import httpx
import keep_release
import pytest
from support.processes.processes import PATIENCE, Place, own_place, shared_server
from testbed.packages import build, find, install, requirements

from orchestrator.client import Client

ROOT = Path(__file__).parents[2]
PACKAGES = ("actors", "node", "orchestrator")


def tracked(*places: str) -> set[str]:
    """The files of the tree, as git has them; those of a tree without git as they lie there."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("built")
    build(into)
    return into


@pytest.fixture(scope="module")
def commands(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of an environment of their own."""
    return install(find(built, "job_orchestrator-*.whl"), tmp_path_factory.mktemp("venv"))


@pytest.fixture
def here() -> Iterator[Place]:
    with own_place("build") as found:
        yield found


def test_the_wheel_has_the_packages_with_all_their_files_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(find(built, "job_orchestrator-*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(
            f"job_orchestrator-{keep_release.project_version()}.dist-info/METADATA"
        ).decode()
    assert names == tracked(*PACKAGES)
    assert "orchestrator/api/static/dashboard/index.html" in names
    assert "License-Expression: MIT" in metadata and "Requires-Python: <3.14,>=3.11" in metadata


def test_the_sdist_has_the_whole_tree_and_the_same_wheel_comes_of_it(built: Path, tmp_path: Path) -> None:
    archive = find(built, "job_orchestrator-*.tar.gz")
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    (tree,) = tmp_path.iterdir()
    names = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert names - {"PKG-INFO"} == tracked()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    wheels = [find(place, "job_orchestrator-*.whl") for place in (built, tmp_path / "again")]
    first, again = (
        [(one.filename, one.CRC) for one in zipfile.ZipFile(wheel).infolist()] for wheel in wheels
    )
    assert first == again


def test_the_installed_wheel_says_its_version(commands: Path, tmp_path: Path) -> None:
    for name in ("orchestrator", "job-orchestrator"):
        told = subprocess.run(
            [commands / name, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert told.stdout == f"orchestrator {keep_release.project_version()}\n"


def test_the_installed_wheel_runs_a_job_and_shows_the_dashboard(commands: Path, here: Place) -> None:
    where = here.run(str(commands / "python"), "-c", "import orchestrator; print(end=orchestrator.__file__)")
    assert Path(where).is_relative_to(commands.parent)
    command = (str(commands / "orchestrator"),)
    arguments = ("up", "--port", "0", "--data", str(here.directory / "up"))
    up = here.start(*arguments, name="orchestrator", command=command)
    (here.directory / "run.sh").write_text("echo from the wheel\n")
    with Client(up.url) as client:
        job = client.submit([here.directory / "run.sh"], service="example", user=1)
        assert client.wait(job.id, timeout=PATIENCE).status == "Completed"
    with httpx.Client(base_url=up.url, trust_env=False) as browser:
        assert "<!doctype html>" in browser.get("/dashboard", follow_redirects=True).text.lower()


# ---------------------------------------------------------------------- the client alone

TYPED = "orchestrator/py.typed"
"""That type checkers are to read what the package says of types."""
WITH_TRIO = "actors/wire/files/threaded_iterator.py"
"""What only the server's side of a body needs, and imports when it does."""


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.exists()), None)


def imported(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def needed_by_the_client() -> set[str]:
    found: dict[str, str] = {}
    waiting = [f"orchestrator.client.{path.stem}" for path in (ROOT / "orchestrator/client").glob("*.py")]
    while waiting:
        module = waiting.pop()
        path = file_of(module) if module.split(".")[0] in PACKAGES else None
        if path is None or module in found:
            continue
        found[module] = str(path.relative_to(ROOT))
        waiting += imported(path.read_text(encoding="utf-8"))
        waiting += [module.rpartition(".")[0]] if "." in module else []
    return {*found.values(), TYPED} - {WITH_TRIO}


def test_the_clients_wheel_has_what_the_client_imports_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(find(built, "job_orchestrator_client-*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == needed_by_the_client(), "say so in deploy/client/pyproject.toml"


def test_the_client_has_the_version_of_the_project_and_asks_for_no_other_packages() -> None:
    project, client = (
        tomllib.loads((ROOT / place / "pyproject.toml").read_text())["project"]
        for place in ("", "deploy/client")
    )
    assert client["version"] == project["version"]
    assert client["requires-python"] == project["requires-python"]
    assert set(client["dependencies"]) <= set(project["dependencies"])
    assert set(client["optional-dependencies"]["async"]) <= set(project["dependencies"])


SUBMIT = """
import importlib.util
import sys
from orchestrator.client import AsyncClient, Client

assert importlib.util.find_spec("trio") is importlib.util.find_spec("anyio") is None
with Client(sys.argv[1], token="") as client:
    job = client.submit({"run.sh": b"echo from afar > result.txt"}, service="example", user=1)
    print(client.wait(job.id, timeout=60).status)
    client.download(job.id, "result.zip")
try:
    AsyncClient(sys.argv[1])
except ImportError as error:
    print(error)
"""


def test_the_client_alone_brings_four_packages_and_runs_a_job_with_them(
    built: Path, tmp_path: Path, here: Place
) -> None:
    wheel = find(built, "job_orchestrator_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    told = PathDistribution(next((tmp_path / "unpacked").glob("*.dist-info")))
    only = requirements(told)
    assert only == {"httpcore", "h11", "certifi", "idna"}
    commands = install(wheel, tmp_path / "venv", only)
    server = shared_server(here)
    said = here.run(str(commands / "python"), "-c", SUBMIT, server.url)
    assert said.splitlines() == [
        "Completed",
        "AsyncClient needs anyio; type: pip install 'job-orchestrator-client[async]'",
    ]
    assert "result.txt" in zipfile.ZipFile(here.directory / "result.zip").namelist()
