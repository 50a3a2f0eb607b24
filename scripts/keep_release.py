"""Keep a ledger of the version in pyproject.toml for the tests of upgrades: scripts/keep_release.py

It becomes tests/orchestrator/ledger/older/release_VERSION.sql: the rows of the newest dump there, in the
tables of this tree. Run it again when a table has changed before the version is tagged, and never after.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tomllib
from contextlib import closing
from pathlib import Path

from orchestrator.ledger import schema

ROOT = Path(__file__).resolve().parents[1]
OLDER = ROOT / "tests" / "orchestrator" / "ledger" / "older"


def project_version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def dump_of(version: str) -> Path:
    return OLDER / f"release_{version}.sql"


def newest_dump() -> Path:
    """Of those by number of schema."""
    return max(OLDER.glob("schema_*.sql"), key=lambda path: int(re.sub(r"\D", "", path.stem)))


def dump_upgraded(older: str) -> str:
    """The same ledger as a script of SQL, brought to this schema."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(older)
        db.isolation_level = None
        schema.bring_up(db)
        lines = [*db.iterdump()]
    lines += [f"PRAGMA application_id = {schema.APPLICATION_ID};", f"PRAGMA user_version = {schema.SCHEMA};"]
    return "\n".join(lines) + "\n"


def main() -> int:
    dump = dump_of(project_version())
    dump.write_text(dump_upgraded(newest_dump().read_text(encoding="utf-8")), encoding="utf-8")
    print(dump.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
