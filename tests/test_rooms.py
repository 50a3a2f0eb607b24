"""The rooms of the architecture: who may import whom, no circle, no file too long to read in one sitting.

`FLOORS` is the order of the folders, the ground floor first; a file stands there by itself where others of
its folder belong to other floors. Whatever is in one of them imports from there and from below.
"""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("actors", "orchestrator", "node")
FLOORS = (
    "actors/domain",
    "actors/config",
    "actors/ports",
    "actors/process",
    "actors/slurm",
    "actors/store",
    "actors/kernel",
    "actors/wire/errors.py",
    "actors/wire/pieces.py",
    "actors/wire/sockets.py",
    "actors/wire/files",
    "actors/wire/protocol",
    "actors/wire/multipart",
    "actors/wire/link",
    "actors/wire/http",
    "actors/metrics",
    "actors/messages.py",
    "actors/ledger_cursor.py",
    "actors/request_batcher.py",
    "actors/sender",
    "actors/getter",
    "actors/autoscaler",
    "actors/callbacks",
    "actors/cleaner.py",
    "actors/runner.py",
    "actors",
    # the node
    "node/errors.py",
    "node/confinement/grants.py",
    "node/confinement/tier_settings.py",
    "node/script_settings.py",
    "node/slurm_settings.py",
    "node/settings.py",
    "node/access",
    "node/confinement",
    "node/host/inotify.py",
    "node/executors",
    "node/host",
    "node/runs",
    "node/payloads",
    "node/api",
    "node",
    # the orchestrator
    "orchestrator/errors.py",
    "orchestrator/dialled_streams.py",
    "orchestrator/http_client.py",
    "orchestrator/contract",
    "orchestrator/access/roles.py",
    "orchestrator/access/audit.py",
    "orchestrator/access/request_log.py",
    "orchestrator/access/limits.py",
    "orchestrator/access/tokens.py",
    "orchestrator/access/sessions.py",
    "orchestrator/access/node_secrets.py",
    "orchestrator/access/node_proofs.py",
    "orchestrator/access/token_files.py",
    "orchestrator/access/links.py",
    "orchestrator/client",
    "orchestrator/storage",
    "orchestrator/ledger/tables",
    "orchestrator/ledger",
    "orchestrator/events",
    "orchestrator/callbacks",
    "orchestrator/commands/console",
    "orchestrator/commands",
    "orchestrator/config",
    "orchestrator/nodes/remote_stream.py",
    "orchestrator/nodes/job_files.py",
    "orchestrator/nodes/refusals.py",
    "orchestrator/nodes/addresses.py",
    "orchestrator/nodes/names.py",
    "orchestrator/nodes/local_process.py",
    "orchestrator/nodes/native",
    "orchestrator/nodes/contract_only",
    "orchestrator/nodes",
    "orchestrator/scheduling",
    "orchestrator/scaling/policy.py",
    "orchestrator/scaling/providers",
    "orchestrator/scaling",
    "orchestrator/exclusive_use.py",
    "orchestrator/startup.py",
    "orchestrator/importing.py",
    "orchestrator/reloading.py",
    "orchestrator/backups",
    "orchestrator/metrics",
    "orchestrator/access",
    "orchestrator/api/serializers.py",
    "orchestrator/api/http",
    "orchestrator/api/openapi",
    "orchestrator/api/context.py",
    "orchestrator/api/job_views.py",
    "orchestrator/api/upload_form.py",
    "orchestrator/api/routes",
    "orchestrator/api",
    "orchestrator/server.py",
    "orchestrator/asgi.py",
    "orchestrator/up.py",
    "orchestrator/up_server.py",
    "orchestrator",
)
LONGEST = 800  # lines: a net only; the rule is that a file has one reason to change


@cache
def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Which of our modules each one imports: anywhere in it, within functions and for types only as well."""
    return {name: frozenset(_imported(name, path)) - {name} for name, path in modules().items()}


def _imported(name: str, path: Path) -> set[str]:
    names: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for statement in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                above = package.split(".")[: len(package.split(".")) - statement.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in statement.names:
                inner = f"{base}.{alias.name}"
                names.add(inner if inner in modules() else base)
    return {target for target in names if target.split(".")[0] in PACKAGES}


def crossings(source: str, *targets: str) -> set[tuple[str, str]]:
    return {
        (name, target)
        for name, wanted in imports().items()
        for target in wanted
        if name.split(".")[0] == source and target.split(".")[0] in targets
    }


def test_the_packages_are_there_and_import_each_other_as_drawn() -> None:
    assert {name.split(".")[0] for name in modules()} == set(PACKAGES)
    assert crossings("orchestrator", "actors")


def test_actors_import_neither_orchestrator_nor_node() -> None:
    assert crossings("actors", "orchestrator", "node") == set()


def test_node_does_not_import_orchestrator() -> None:
    assert crossings("node", "orchestrator") == set()


def test_of_orchestrator_only_the_command_line_imports_node_and_only_its_command_line() -> None:
    assert crossings("orchestrator", "node") <= {("orchestrator.cli", "node.cli")}


def test_every_module_that_is_imported_exists() -> None:
    missing = {target for wanted in imports().values() for target in wanted} - modules().keys()
    assert missing == set()


def floor_of(name: str) -> int:
    """The floor of a module: the longest entry of `FLOORS` that it is in."""
    path = str(modules()[name].relative_to(ROOT))
    fitting = [entry for entry in FLOORS if f"{path}/".startswith(f"{entry}/")]
    return FLOORS.index(max(fitting, key=len))


def test_nothing_imports_upward() -> None:
    upward = {
        f"{name} -> {target}"
        for name, wanted in imports().items()
        for target in wanted
        if name.split(".")[0] == target.split(".")[0] and floor_of(target) > floor_of(name)
    }
    assert upward == set()


def test_every_floor_has_something_on_it() -> None:
    assert {floor_of(name) for name in modules()} == set(range(len(FLOORS)))


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(reversed(error.args[1]))}")


def test_no_clause_of_except_star_raises() -> None:
    """The first releases of Python 3.11 make a group of what such a clause raises."""
    raising = {
        f"{name}:{statement.lineno}"
        for name, path in modules().items()
        for tried in ast.walk(ast.parse(path.read_bytes(), str(path)))
        if isinstance(tried, ast.TryStar)
        for clause in tried.handlers
        for statement in ast.walk(clause)
        if isinstance(statement, ast.Raise)
    }
    assert raising == set()


def test_no_file_is_longer_than_can_be_read_in_one_sitting() -> None:
    places = [*PACKAGES, "scripts", "examples"]
    files = [path for place in places for path in (ROOT / place).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
