"""What a start finds in the places of its small files: locks, the reserve, a secret, directories."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.damage import a_directory, empty, half, huge, missing, no_utf8, zeros
from support.data.ledgers import SetClock, new_job, open_ledger
from support.data.node_jobs import new_storage

from actors.store.reserve import HELD, Reserve
from orchestrator.callbacks.keys import load_secrets
from orchestrator.config.settings import load
from orchestrator.errors import StartError
from orchestrator.exclusive_use import locked
from orchestrator.startup import callback_keys
from orchestrator.storage.storage import DiskStorage

Way = Callable[[Path], None]
WAYS = [missing, empty, half, zeros, a_directory, huge, no_utf8]


@pytest.mark.parametrize("way", WAYS)
def test_a_lock_is_held_by_one_whatever_stands_in_its_place(tmp_path: Path, way: Way) -> None:
    path = tmp_path / "orchestrator.lock"
    path.write_bytes(b"what an older version wrote")
    way(path)
    with (
        locked(path, "data directory", "DATA_PATH"),
        pytest.raises(StartError, match="another orchestrator"),
        locked(path, "data directory", "DATA_PATH"),
    ):
        pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["space", "1", ""])
def test_the_reserve_is_held_again(tmp_path: Path, where: str, way: Way) -> None:
    path = tmp_path / "db.sqlite.reserve"
    assert Reserve(path).hold()
    if where:
        way(path / where)
    else:
        assert Reserve(path).let_go()
        path.write_bytes(b"what an older version wrote")
        way(path)
    assert Reserve(path).hold()
    assert (path / "space").stat().st_size == HELD
    assert Reserve(path).let_go() and not path.exists()


@pytest.mark.parametrize("way", [way for way in WAYS if way is not missing])
def test_callbacks_wait_for_a_secret_that_is_damaged_and_nothing_else_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: Way
) -> None:
    data = tmp_path / "data"
    environment = {"DATA_PATH": str(data), "CALLBACK_HOSTS": "portal.test"}
    settings = load(environment, None, {})
    (made,) = callback_keys(settings)[0]
    before = (data / "callback.secret").read_bytes()
    way(data / "callback.secret")
    assert callback_keys(settings)[0] == ()
    assert f"{data}/callback.secret: " in caplog.records[-1].getMessage()
    named = load({**environment, "CALLBACK_SECRET_FILE": str(tmp_path / "secret")}, None, {})
    (tmp_path / "secret").write_text("a mistake")
    with pytest.raises(StartError, match="secret: lines of whsec_"):
        callback_keys(named)
    if way is a_directory:
        (data / "callback.secret" / "in").rmdir()
        (data / "callback.secret").rmdir()
    (data / "callback.secret").write_bytes(before)
    assert callback_keys(settings)[0] == (made,)


def test_a_secret_that_is_made_anew_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "callback.secret"
    (first,) = load_secrets(path)
    path.unlink()
    caplog.clear()
    assert load_secrets(path) != (first,)
    assert "receivers of callbacks have to be given it" in caplog.text


@pytest.mark.parametrize("name", ["jobs", "jobs/ab", "incoming", "trash"])
async def test_a_file_in_the_place_of_a_directory_is_told_and_makes_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    storage = await new_storage(tmp_path)
    for path in sorted((storage.root / name).glob("*")):
        path.rmdir()
    (storage.root / name).rmdir()
    (storage.root / name).write_bytes(b"\xff")
    with caplog.at_level(logging.ERROR):
        await DiskStorage(storage.root, SetClock()).open()
    assert (storage.root / name).is_dir()
    assert name in ("incoming", "trash") or f"{storage.root / name} was no directory" in caplog.text
    async with storage.receive() as upload:
        await upload.commit(7, "example")
    assert await storage.has_jobs()


async def test_a_reserve_that_is_no_directory_stops_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite.reserve").symlink_to(tmp_path)
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        assert (await ledger.insert(new_job())).id == 1
    assert (tmp_path / "db.sqlite").exists()
