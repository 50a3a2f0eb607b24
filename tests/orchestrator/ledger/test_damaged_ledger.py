"""Whatever became of the ledger's files: a start goes on where all of it is there, and refuses where anything
is missing. No ledger is opened as if its newest changes had never been, none that is damaged written to."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
from support.data.damage import a_directory, empty, half, huge, missing, of_another, zeros
from support.data.ledgers import SetClock, new_job, open_ledger, walk

from actors.domain.status import Status
from actors.ports.ledger import LedgerError
from orchestrator.ledger import inspection
from orchestrator.ledger.errors import LedgerDamaged
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.schema import SCHEMA

S = Status
NAME = "db.sqlite"
MANY = 200


async def _write(there: Path) -> None:
    """What a killed orchestrator leaves in there: jobs in the file, and what came later in its log."""
    live = there / "live"
    live.mkdir(parents=True)
    async with open_ledger(live / NAME) as ledger:
        async with trio.open_nursery() as nursery:
            for _ in range(MANY):
                nursery.start_soon(ledger.insert, new_job())
        with closing(sqlite3.connect(live / NAME)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await ledger.insert(new_job())
        for number in (1, 2, 3):
            job = await ledger.get(number)
            assert job is not None
            await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
        for path in live.iterdir():
            if path.is_file():
                shutil.copyfile(path, there / path.name)
    shutil.rmtree(live)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of them: `ours`, and `others`, which is further on."""
    place = tmp_path_factory.mktemp("killed")
    for name in ("ours", "others"):
        trio.run(_write, place / name)
    assert {path.name for path in (place / "ours").iterdir()} == {
        *(NAME, f"{NAME}-wal", f"{NAME}-shm", f"{NAME}.newest"),
    }
    return place


def zeros_inside(path: Path, other: Path) -> None:
    content = path.read_bytes()
    third = len(content) // 3
    path.write_bytes(content[:third] + bytes(third) + content[2 * third :])


def text(path: Path, other: Path) -> None:
    path.write_bytes(b"\xff\xfe\x80 no database " * 1000)


WAYS = [missing, empty, half, zeros, zeros_inside, a_directory, of_another, huge, text]
Way = Callable[[Path, Path], None]
HARMLESS = [("", huge), ("-wal", huge), *(("-shm", way) for way in WAYS)]
HARMLESS += [(".newest", way) for way in WAYS if way is not of_another]
HARMFUL = [(suffix, way) for suffix in ("", "-wal") for way in WAYS if way is not huge]
HARMFUL += [(".newest", of_another)]


def damage(killed: Path, here: Path, suffix: str, way: Way) -> Path:
    for path in (killed / "ours").iterdir():
        shutil.copyfile(path, here / path.name)
    way(here / f"{NAME}{suffix}", killed / "others" / f"{NAME}{suffix}")
    return here / NAME


def content(ledger: Path) -> dict[str, bytes]:
    """All that says anything: an empty log is as good as none."""
    found = {path.name: path.read_bytes() for path in ledger.parent.iterdir() if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith("-shm") and data}


async def require_all_of_it(path: Path) -> None:
    async with open_ledger(path) as ledger:
        live = await ledger.live(queued=True)
        assert sum(len(one.orders) for one in live.queued) == MANY + 1 - 3
        assert [job.status for job in live.jobs] == [S.RUNNING] * 3
        assert (await ledger.insert(new_job())).id == MANY + 2
    async with open_ledger(path) as ledger:
        assert await ledger.max_id() == MANY + 2


@pytest.mark.parametrize(("suffix", "way"), HARMLESS)
async def test_what_can_be_made_again_holds_nobody_up(
    killed: Path, tmp_path: Path, suffix: str, way: Way
) -> None:
    await require_all_of_it(damage(killed, tmp_path, suffix, way))


@pytest.mark.parametrize(("suffix", "way"), HARMFUL)
async def test_a_ledger_that_lacks_anything_is_refused_and_left_as_it_is(
    killed: Path, tmp_path: Path, suffix: str, way: Way
) -> None:
    path = damage(killed, tmp_path, suffix, way)
    before = content(path)
    for _ in range(2):
        with pytest.raises(LedgerError) as refused:
            await SqliteLedger.open(str(path), clock=SetClock())
        told = str(refused.value)
        assert told.startswith(f"{path}: ") and "restore" in told.lower() and "\n" not in told, told
        assert content(path) == before
    # Restored, it is as it was.
    for one in (killed / "ours").iterdir():
        if (tmp_path / one.name).is_dir():
            shutil.rmtree(tmp_path / one.name)
        shutil.copyfile(one, tmp_path / one.name)
    await require_all_of_it(path)


@pytest.mark.parametrize("way", [missing, empty, half, zeros, text])
async def test_an_older_state_is_taken_where_somebody_says_so(killed: Path, tmp_path: Path, way: Way) -> None:
    path = damage(killed, tmp_path, "-wal", way)
    with pytest.raises(LedgerDamaged, match=r"ends at change .* remove .*db\.sqlite\.newest"):
        await SqliteLedger.open(str(path), clock=SetClock())
    path.with_name(f"{NAME}.newest").unlink()
    async with open_ledger(path) as ledger:
        assert await ledger.max_id() >= MANY


async def test_an_older_copy_with_its_own_note_is_a_ledger(killed: Path, tmp_path: Path) -> None:
    path = damage(killed, tmp_path, "-shm", missing)
    async with open_ledger(path) as ledger:
        await ledger.insert(new_job())
    for one in (killed / "ours").iterdir():
        shutil.copyfile(one, tmp_path / one.name)
    await require_all_of_it(path)


async def test_a_future_version_is_refused_and_left_alone(killed: Path, tmp_path: Path) -> None:
    path = damage(killed, tmp_path, "-shm", missing)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = content(path)
    with pytest.raises(LedgerError, match="newer version"):
        await SqliteLedger.open(str(path), clock=SetClock())
    assert content(path) == before


@pytest.mark.parametrize("way", [missing, empty])
async def test_where_there_are_jobs_no_ledger_is_begun(killed: Path, tmp_path: Path, way: Way) -> None:
    path = tmp_path / NAME
    path.touch()
    way(path, path)
    with pytest.raises(LedgerDamaged, match="there are directories of jobs"):
        await SqliteLedger.open(str(path), clock=SetClock(), may_begin=False)
    assert not path.exists() or path.stat().st_size == 0
    async with open_ledger(path) as ledger:
        assert await ledger.max_id() == 0


def _spoil_an_index(path: Path, other: Path) -> None:
    with closing(sqlite3.connect(f"{other.as_uri()}?mode=ro", uri=True)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'history_job'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))


async def test_damage_that_shows_only_later_ends_the_writer(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with a ledger that is too large to be looked through.
    monkeypatch.setattr(inspection, "_look_through", lambda db: None)
    path = damage(killed, tmp_path, "", _spoil_an_index)
    path.with_name(f"{NAME}-wal").unlink()
    path.with_name(f"{NAME}.newest").unlink()
    with pytest.raises(BaseExceptionGroup) as ended:
        async with open_ledger(path) as ledger:
            await ledger.history(1)
    damages = ended.value.subgroup(LedgerDamaged)
    assert damages is not None and f"{path}: the ledger is damaged" in repr(damages)
