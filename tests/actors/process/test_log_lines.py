"""A line of a log for each message: strangers' words make no lines of their own, and move no terminal."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.process.log_lines import escaped, make_formatter, request_id, set_level

FORGED = "2026-01-01 00:00:00,000 ERROR orchestrator: forged"
WORDS = {
    f"x\n{FORGED}": f"x\\n{FORGED}",
    f"x\r{FORGED}": f"x\\r{FORGED}",
    f"x\u2028{FORGED}\u2029": f"x\\u2028{FORGED}\\u2029",
    "\x0b\x0c\x1c\x85": "\\x0b\\x0c\\x1c\\x85",
    "\x1b[2J\x1b]0;title\x07\x9b31m": "\\x1b[2J\\x1b]0;title\\x07\\x9b31m",
    "\u202egnp.exe\u2066": "\\u202egnp.exe\\u2066",
    "\udc80": "\\udc80",
    "Grüße, 蛋白 🙂": "Grüße, 蛋白 🙂",
}
IN_JSON = make_formatter("json")


@pytest.fixture
def told() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    log, text = logging.Logger("a.log"), io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(make_formatter("text"))
    log.addHandler(handler)
    yield log, text


@pytest.mark.parametrize(("words", "line"), WORDS.items(), ids=range(len(WORDS)))
def test_words_of_strangers_stay_in_their_line(
    told: tuple[logging.Logger, io.StringIO], words: str, line: str
) -> None:
    log, text = told
    log.warning("somebody said %s here", words)
    assert re.fullmatch(rf"\S+ WARNING a\.log: somebody said {re.escape(line)} here\n", text.getvalue())


def test_a_traceback_is_below_its_line_and_forges_none(told: tuple[logging.Logger, io.StringIO]) -> None:
    log, text = told
    try:
        raise ValueError(f"x\n{FORGED}\x1b[2J")
    except ValueError:
        log.exception("it failed")
    first, *others = text.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("ERROR a.log: it failed")
    assert len(others) > 3 and all(line.startswith("    ") and line.isprintable() for line in others)


def test_a_line_for_people_ends_with_the_request_it_is_of(told: tuple[logging.Logger, io.StringIO]) -> None:
    log, text = told
    log.warning("handed in by another one", extra={"request": f"r-0\n{FORGED}"})
    asked = request_id.set("r-1")
    try:
        log.warning("it ended", extra={"job": 7})
    finally:
        request_id.reset(asked)
    first, second = text.getvalue().splitlines()
    assert first.endswith(f": handed in by another one (request r-0\\n{FORGED})")
    assert second.endswith(": it ended (request r-1)")


@given(st.text())
def test_any_text_is_one_printable_line(text: str) -> None:
    assert escaped(text).isprintable()


@given(st.text())
def test_any_message_is_one_object_in_a_line_of_ascii(text: str) -> None:
    record = logging.LogRecord("a.log", logging.WARNING, "", 0, "%s", (text,), None)
    line = IN_JSON.format(record)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["message"] == text


def test_json_has_what_a_line_is_about_and_which_request_it_is_of() -> None:
    log, text = logging.Logger("a.log"), io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(IN_JSON)
    log.addHandler(handler)
    asked = request_id.set("r-1")
    try:
        log.info("it ended", extra={"job": 7, "node": "n", "other": "left out"})
        log.info("it was handed in by another one", extra={"request": "r-0"})
        raise ValueError(FORGED)
    except ValueError:
        log.exception("it failed")
    finally:
        request_id.reset(asked)
    log.info("nobody asked")
    first, other, second, third = map(json.loads, text.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", first.pop("at"))
    assert first == {
        "level": "info",
        "logger": "a.log",
        "message": "it ended",
        "job": 7,
        "node": "n",
        "request": "r-1",
    }
    assert other["request"] == "r-0"
    assert second["level"] == "error" and second["exception"].endswith(f"ValueError: {FORGED}")
    assert "request" not in third


def test_a_level_is_that_of_one_logger_and_of_others_where_it_is_higher() -> None:
    root, own = logging.getLogger(), logging.getLogger("test_levels")
    before = root.level
    try:
        set_level("test_levels", "debug")
        assert (own.level, root.level) == (logging.DEBUG, logging.WARNING)
        set_level("test_levels", "error")
        assert (own.level, root.level) == (logging.ERROR, logging.ERROR)
    finally:
        root.setLevel(before)


EVERYBODY = """
import logging
from actors.process.log_lines import set_level, set_up_log
set_up_log("json")
set_level("node", "info")
for name in ("hypercorn.error", "node.jobs"):
    for level in ("debug", "info", "warning"):
        getattr(logging.getLogger(name), level)("%s says %s", name, level)
"""


def test_what_other_libraries_say_comes_the_same_way_from_warnings_on() -> None:
    done = subprocess.run([sys.executable, "-c", EVERYBODY], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["level"], line["message"]) for line in lines] == [
        ("hypercorn.error", "warning", "hypercorn.error says warning"),
        ("node.jobs", "info", "node.jobs says info"),
        ("node.jobs", "warning", "node.jobs says warning"),
    ]
