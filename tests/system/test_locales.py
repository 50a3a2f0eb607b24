"""Names of files are UTF-8 whatever the locale that server, node and command are started in."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.peers.portals import portal
from support.processes.processes import COMMAND, Place

NAMES = ("€ rates.pdb", "rés.pdb")


@pytest.fixture(params=["en_US.ISO-8859-1", "C"])
def locale(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A locale in which Python would not take names for UTF-8, for all that is started."""
    name: str = request.param
    if name != "C":
        made = tmp_path / "locales" / name
        made.parent.mkdir()
        localedef = shutil.which("localedef") or "true"
        subprocess.run(
            [localedef, "-i", "en_US", "-f", "ISO-8859-1", str(made)], check=False, capture_output=True
        )
        if not made.is_dir():
            pytest.skip("this machine cannot make the locale")
        monkeypatch.setenv("LOCPATH", str(made.parent))
    monkeypatch.setenv("LC_ALL", name)
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    told = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert told.stdout.strip() != "utf-8"
    return name


async def test_names_come_and_go_as_they_are_in_any_locale(here: Place, locale: str) -> None:
    node = here.node()
    server = here.server(nodes=[node.url], config="small_files = 0")
    script = 'for f in *.pdb; do echo "$f" >> names; cp "$f" "out $f"; done'
    async with portal(server.url) as user:
        job = await user.run(script, files={name: name.encode() for name in NAMES})
        assert job["status"] == "Completed", job
        found = await user.contents(job["id"])
        listed = {one["path"] for one in (await user.json(f"/v1/jobs/{job['id']}/files"))["items"]}
        for name in NAMES:
            assert found[name] == found[f"out {name}"] == name.encode()
            assert {name, f"out {name}"} <= listed
        assert sorted(found["names"].decode().splitlines()) == sorted(NAMES)
    assert {path.name for path in (here.directory / "server" / "data").rglob("*.pdb")} == set(NAMES)
    assert await server.end(signal.SIGTERM) == await node.end(signal.SIGTERM) == 0


async def test_the_command_sends_and_fetches_names_as_they_are_in_any_locale(
    here: Place, locale: str
) -> None:
    running = here.up("--nodes", "1")
    job = here.directory / "job"
    job.mkdir()
    (job / "run.sh").write_text('for f in *.pdb; do cp "$f" "out $f"; done')
    for name in NAMES:
        (job / name).write_text(name)
    flags = ("--url", running.url, "--user", "1", "--wait", "--output", "got")
    here.run(*COMMAND, "submit", *flags, "job/run.sh", *(f"job/{name}" for name in NAMES))
    for name in NAMES:
        assert (here.directory / "got" / f"out {name}").read_text() == name


async def test_another_host_of_the_app_is_told_what_to_do(here: Place, locale: str) -> None:
    done = here.refused(
        *("-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0", "orchestrator.asgi:app"),
        command=(sys.executable,),
        environment={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert any("PYTHONUTF8=1" in line for line in done.lines)
