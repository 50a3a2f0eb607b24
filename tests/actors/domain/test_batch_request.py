"""What a job asks of a batch system, as it is written, allowed, stored, and told to others."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.domain.batch_request import (
    NOTHING_ALLOWED,
    NOTHING_REQUESTED,
    REQUESTS,
    BatchAllowance,
    BatchRequest,
    make_request,
    parse_request,
    request_from_json,
    request_to_json,
)

WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:,+=@/-]{0,20}", fullmatch=True)
KINDS = st.sampled_from(["", "a100:", "h100:"])
ASKED = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("partition", "account", "qos"), WORDS),
        "cpus": st.integers(1, 100_000).map(str),
        "gpus": st.builds("{}{}".format, KINDS, st.integers(1, 9999)),
    },
)
ALLOWED = BatchAllowance(("short", "long"), ("bio",), (), 16, ("a100:4", "2"))


@given(ASKED)
def test_what_is_asked_for_comes_back_from_json(asked: dict[str, str]) -> None:
    request = make_request({name: parse_request(name, text) for name, text in asked.items()})
    assert {name: str(value) for name, value in asdict(request).items() if value} == asked
    told = json.loads(json.dumps(request_to_json(request)))
    assert request_from_json(told | {"of_a_later_version": "x"}) == request


@given(st.sampled_from(REQUESTS), st.text(max_size=20))
def test_what_is_taken_is_one_word_that_is_no_option(name: str, text: str) -> None:
    try:
        value = parse_request(name, text)
    except ValueError:
        return
    assert str(value) == text and text.isascii() and text[0].isalnum() and len(text.split()) == 1


@given(ASKED)
def test_where_nothing_is_allowed_nothing_is(asked: dict[str, str]) -> None:
    for name, text in asked.items():
        assert not NOTHING_ALLOWED.has(name, parse_request(name, text))
        assert NOTHING_ALLOWED.describe(name) == "none"


@pytest.mark.parametrize(
    ("name", "right", "wrong", "told"),
    [
        ("partition", ("short", "long"), ("shor", "short,long", "bio"), "short, long"),
        ("account", ("bio",), ("short", "Bio"), "bio"),
        ("qos", (), ("high",), "none"),
        ("cpus", ("1", "16"), ("17", "100000"), "at most 16"),
        ("gpus", ("1", "2", "a100:4"), ("3", "a100:5", "h100:1"), "at most a100:4 or 2"),
    ],
)
def test_what_is_listed_is_allowed_and_nothing_else(
    name: str, right: tuple[str, ...], wrong: tuple[str, ...], told: str
) -> None:
    assert all(ALLOWED.has(name, parse_request(name, text)) for text in right)
    assert not any(ALLOWED.has(name, parse_request(name, text)) for text in wrong)
    assert ALLOWED.describe(name) == told


@pytest.mark.parametrize(
    "data", [[], None, {"cpus": 0}, {"cpus": True}, {"partition": ""}, {"account": 5}, {"gpus": "a:b:1 "}]
)
def test_what_is_no_such_object_is_refused(data: object) -> None:
    with pytest.raises(ValueError):  # each says what was expected
        request_from_json(data)


def test_nothing_is_one_value() -> None:
    assert request_to_json(BatchRequest()) == {} and request_from_json({}) is NOTHING_REQUESTED
