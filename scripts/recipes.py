"""Run the recipes of docs/recipes.md in each tier: scripts/recipes.py [RECIPE...] [--tier TIER].

Each `run.sh` that stands there is submitted, as written, to an orchestrator and node of its own with the
settings that it needs. What is not installed is told. The exit status is 0 if all that ran was Completed and
printed what it should.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from check_docs import ROOT, bash_blocks, running_orchestrator

from orchestrator.client import Client

DOCUMENT: Final = ROOT / "docs" / "recipes.md"
TIERS: Final = ("bubblewrap", "landlock", "bash")
_SECONDS: Final = 240.0
_HOME: Final = "/home/ada"
"""In the document, a home that is made for the run."""

_AS_ROOT: Final = {
    "SCRIPT_ENV_OMPI_ALLOW_RUN_AS_ROOT": "1",
    "SCRIPT_ENV_OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
"""Where the node is root's and scripts have no uids of their own."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """`programs`: what has to be installed. `prints`: in what it prints. `settings`: of the node, by tier and
    home. `prepare`: makes what the script finds in the home."""

    programs: tuple[str, ...]
    prints: str
    settings: Callable[[str, Path], Mapping[str, str]] = lambda _tier, _home: {}
    prepare: Callable[[Path], None] = lambda _home: None

    def missing(self) -> str:
        """Names of what is not installed."""
        return ", ".join(each for each in self.programs if not Path(each).exists() and not shutil.which(each))


def _make_environment(home: Path) -> None:
    # Of the system's Python: that of this process may itself be under a home.
    place = str(home / "miniconda3")
    if Path("/usr/bin/python3").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--copies", "--without-pip", place], check=True)
    else:
        venv.create(place, with_pip=False)


RECIPES: Final = {
    "GROMACS": Recipe(("gmx",), "Finished mdrun"),
    "Conda under a home": Recipe(
        (),
        "python of",
        lambda _tier, home: {"READ": str(home / "miniconda3")},
        _make_environment,
    ),
    "Open MPI": Recipe(
        ("mpicc", "mpirun"),
        "2 processes, ranks add up to 1",
        lambda tier, _home: {**_AS_ROOT, **({"NETWORK": "1"} if tier == "landlock" else {})},
    ),
    "Environment modules": Recipe(("/etc/profile.d/modules.sh",), "tool/1.0 is loaded"),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[RECIPE]...", nargs=-1, type=click.Choice(list(RECIPES)))
@click.option(
    "--tier", "tiers", type=click.Choice(TIERS), multiple=True, default=TIERS[:2], show_default=True
)
def main(names: tuple[str, ...], tiers: tuple[str, ...]) -> None:
    """Run the recipes of docs/recipes.md in each tier."""
    failed = False
    for name in names or RECIPES:
        if missing := RECIPES[name].missing():
            print(f"{name}: not run: {missing} is not installed")
            continue
        for tier in tiers:
            wrong = run_recipe(name, RECIPES[name], tier)
            failed |= bool(wrong)
            print(f"{name} in {tier}: {wrong or 'ran'}", flush=True)
    sys.exit(1 if failed else 0)


def run_recipe(name: str, recipe: Recipe, tier: str) -> str:
    """What went wrong, "" for nothing."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-recipe-") as place:
        directory, home = Path(place), Path(place) / "home" / "ada"
        directory.chmod(0o755)
        home.mkdir(parents=True)
        recipe.prepare(home)
        script = _find_script(name).replace(_HOME, str(home))
        settings = {"EXECUTOR": tier, "HOME": str(home), **recipe.settings(tier, home)}
        with (
            running_orchestrator(directory, settings) as url,
            Client(url, token=_read_token(directory)) as client,
        ):
            job = client.submit({"run.sh": script.encode()}, user=1, max_runtime=_SECONDS)
            job = client.wait(job.id, timeout=2 * _SECONDS)
            log = (directory / "orchestrator-data" / "node-1.log").read_text()
            said = {stream: b"".join(client.logs(job.id, stream)).decode() for stream in ("stdout", "stderr")}
    if f"; executor {tier}: " not in log:
        return f"this tier does not work here\n{log[-1000:]}"
    if not job.succeeded:
        return f"{job.status}, {job.message}\n{said['stderr'][-1000:]}"
    return "" if recipe.prints in said["stdout"] else f"it printed {said['stdout'][-1000:]!r}"


def _read_token(directory: Path) -> str:
    """The server has left it for our account, in a line that is a header."""
    return (directory / "orchestrator-data" / "server" / "data" / "operator.token").read_text().split()[-1]


def _find_script(name: str) -> str:
    """What stands below the recipe's heading."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    return next(block.text for block in bash_blocks(section) if block.text.startswith("# run.sh\n"))


if __name__ == "__main__":
    main()
