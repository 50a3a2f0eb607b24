"""A job's row, replaced."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from actors.domain.job import Attempt, Job, change_job
from actors.domain.status import Status

ROW = Job(3, 7, "example", Status.QUEUED, "waits", 11, 1.0, 2.0, "key")


@pytest.mark.parametrize("name", [one.name for one in fields(Job)])
def test_a_changed_row_differs_in_that_field_alone(name: str) -> None:
    assert change_job(ROW, **{name: "other"}) == replace(ROW, **{name: "other"})  # type: ignore[arg-type]


def test_a_row_takes_several_changes_or_none_and_stays_as_it_was() -> None:
    attempt = Attempt("k", 3, 1, "node-a")
    changed = change_job(ROW, status=Status.PROCESSING, attempt=attempt)
    assert changed == replace(ROW, status=Status.PROCESSING, attempt=attempt)
    assert change_job(changed) == changed
    assert ROW.attempt is None


def test_a_field_that_no_row_has_is_refused() -> None:
    with pytest.raises(KeyError):
        change_job(ROW, stand="odd")
