"""The scanner finds what a JSON parser finds, however the bytes are cut, and keeps nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.wire.protocol.attempts import Garbled
from orchestrator.nodes.contract_only.json_scan import TOKEN_LIMIT, TopLevel

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))
members = st.dictionaries(st.sampled_from(["id", "status", "input", 'i"d', "}", ":,"]) | st.text(), values)


def scan(raw: bytes, cut: int = 1 << 30) -> TopLevel:
    scanner = TopLevel(("id", "status"))
    for start in range(0, len(raw), cut):
        scanner.feed(raw[start : start + cut])
    return scanner


@given(members, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_it_finds_what_a_parser_finds(
    form: dict[str, Any], cut: int, ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(form, ensure_ascii=ascii_only, indent=indent).encode()
    scanner = scan(raw, cut)
    assert scanner.complete
    for name in ("id", "status"):
        value = form.get(name)
        if not isinstance(value, list | dict):
            assert scanner.found.get(name) == value


@pytest.mark.parametrize("raw", [b"[1]", b"7", b"<html>", b'"id"', b'{"id": x, "a": 1}', b"{} {}"])
def test_what_is_no_object_is_garbled(raw: bytes) -> None:
    with pytest.raises(Garbled):
        scan(raw)


def test_long_values_are_passed_over_and_what_follows_is_found() -> None:
    scanner = scan(json.dumps({"id": "x" * (TOKEN_LIMIT + 1), "status": "Running"}).encode(), 7)
    assert scanner.found.get("id") is None
    assert scanner.found["status"] == "Running"


def test_what_was_cut_off_is_not_complete() -> None:
    scanner = scan(b'{"id": 3, "status": "Run')
    assert (scanner.complete, scanner.satisfied, scanner.found) == (False, False, {"id": 3})
