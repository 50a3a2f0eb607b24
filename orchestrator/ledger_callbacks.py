"""Whom to tell of ended jobs: a table of schema 5. The end of a job that asked for it writes its row, in the
same transaction, so no crash forgets a callback."""

from __future__ import annotations

from typing import Final

TABLES: Final = (
    """CREATE TABLE callbacks (
        job_id INTEGER PRIMARY KEY REFERENCES jobs (id),
        status TEXT NOT NULL DEFAULT 'pending',
        since REAL NOT NULL,
        next_at REAL NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        last_error TEXT NOT NULL DEFAULT '',
        settled_at REAL
    ) STRICT""",
    "CREATE INDEX callbacks_due ON callbacks (next_at) WHERE status = 'pending'",
    """CREATE TRIGGER jobs_called AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL AND new.callback_url IS NOT NULL BEGIN
        INSERT INTO callbacks (job_id, since, next_at) VALUES (new.id, new.ended_at, new.ended_at)
            ON CONFLICT DO NOTHING;
    END""",
)
