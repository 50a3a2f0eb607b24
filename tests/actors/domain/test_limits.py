"""Limits as they are written, shown, stored, and told to others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.domain.limits import (
    LIMITS,
    UNLIMITED,
    JobLimits,
    limits_from_json,
    limits_to_json,
    parse_limit,
    show_limit,
)

SOME = JobLimits(memory_bytes=2 << 30, cpu_seconds=0.5, processes=3)


@pytest.mark.parametrize(
    ("name", "written", "value", "shown"),
    [
        ("memory", "4G", 4 << 30, "4 GiB"),
        ("memory", 3 << 29, 3 << 29, "1.5 GiB"),
        ("disk", "0.5K", 512, "512 B"),
        ("disk", "999999999999999999", 10**18 - 1, "9.095e+05 TiB"),
        ("file_size", "2T", 2 << 40, "2 TiB"),
        ("cpu_time", "90", 90.0, "90 s"),
        ("cpu_time", 0.25, 0.25, "0.25 s"),
        ("processes", "100", 100, "100"),
        ("open_files", 64, 64, "64"),
    ],
)
def test_a_limit_is_read_as_it_is_written_and_shown_to_people(
    name: str, written: object, value: float, shown: str
) -> None:
    assert parse_limit(name, written) == value
    assert show_limit(LIMITS[name], value) == shown


def test_limits_come_back_from_json_and_those_that_are_none_are_left_out() -> None:
    told = json.loads(json.dumps(limits_to_json(SOME)))
    assert told == {"memory_bytes": 2 << 30, "cpu_seconds": 0.5, "processes": 3}
    assert limits_from_json(told) == SOME
    assert limits_from_json(told | {"of_a_later_version": "x"}) == SOME
    assert limits_to_json(UNLIMITED) == {} and limits_from_json({}) is UNLIMITED


@pytest.mark.parametrize(
    "data",
    [
        *(
            [],
            None,
            {"memory_bytes": "4G"},
            {"memory_bytes": 2.0**31},
            {"memory_bytes": 1},
            {"processes": True},
        ),
        *({"cpu_seconds": float("inf")}, {"cpu_seconds": float("nan")}, {"disk_bytes": 1 << 61}),
    ],
)
def test_what_are_no_limits_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"^no "):
        limits_from_json(data)
