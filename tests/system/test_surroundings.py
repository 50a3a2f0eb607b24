"""What else a whole orchestrator has to stand: proxies in the environment, another host for the app; and the
project's own example from upload to zip."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

from support.peers.portals import portal
from support.processes.processes import Place

EXAMPLE = Path(__file__).parents[2] / "examples" / "interface-contacts"
DEAD = "http://127.0.0.1:9"


async def test_a_proxy_in_the_environment_is_for_others(here: Place) -> None:
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy")
    running = here.up(
        "--nodes", "1", **dict.fromkeys(names, DEAD), NO_PROXY="10.0.0.0/8", PASS_ENV="HTTP_PROXY"
    )
    async with portal(running.url) as user:
        job = await user.run('echo "$HTTP_PROXY" > proxy')
        assert job["status"] == "Completed"
        # A script may need it: passed on, it is as it was.
        assert (await user.contents(job["id"]))["proxy"].decode() == f"{DEAD}\n"


async def test_hypercorn_serves_the_same_app_with_its_actors(here: Place) -> None:
    node = here.node()
    data = here.directory / "server"
    data.mkdir()
    environment = {
        "SERVICE_EXAMPLE_NODES": node.url,
        "DB_PATH": str(data / "db.sqlite"),
        "DATA_PATH": str(data / "data"),
        # It runs anywhere; the project is installed, or found here.
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Whoever connects before it accepts waits in the queue of this socket.
        flags = ("-k", "trio", "--bind", f"fd://{listening.fileno()}", "orchestrator.asgi:app")
        hypercorn = here.begin(
            *flags,
            name="hypercorn",
            command=(sys.executable, "-m", "hypercorn"),
            environment=environment,
            pass_fds=[listening.fileno()],
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with portal(url) as user:
            assert await user.json("/") == {"message": "pong"}
            job = await user.run("cat in > out", files={"in": b"data"})
            assert job["status"] == "Completed"
            assert (await user.contents(f"/download/{job['id']}"))["out"] == b"data"
    assert await hypercorn.end(signal.SIGTERM) == 0
    # The next one finds everything in order.
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        assert (await user.contents(job["id"]))["out"] == b"data"


async def test_the_example_goes_from_upload_to_zip(here: Place) -> None:
    names = ("run.sh", "contacts.py", "helix_A.pdb", "helix_B.pdb")
    files = {name: (EXAMPLE / name).read_bytes() for name in names}
    running = here.up("--nodes", "1")
    async with portal(running.url) as user:
        for more in ({}, {"cutoff.txt": b"8.0\n"}):
            sent = {**files, **more}
            job = await user.run(None, files=sent)
            assert job["status"] == "Completed", job
            found = await user.contents(f"/download/{job['id']}")
            by_hand = _by_hand(here, here.directory / f"by-hand-{job['id']}", sent)
            assert {name: found[name] for name in by_hand} == by_hand
            assert found["contacts.tsv"].count(b"\n") > 2


def _by_hand(here: Place, directory: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """What the script makes of these files where nothing else is."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    here.run("bash", "-c", f"cd {directory} && bash run.sh")
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in files}
