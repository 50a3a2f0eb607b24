"""A line of a log for each message: strangers' words make no lines of their own, and move no terminal."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.process.log_lines import FORMAT, LineFormatter, escaped

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


@pytest.fixture
def told() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    log, text = logging.Logger("a.log"), io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(LineFormatter(FORMAT))
    log.addHandler(handler)
    yield log, text


@pytest.mark.parametrize(("words", "line"), WORDS.items(), ids=range(len(WORDS)))
def test_words_of_strangers_stay_in_their_line(
    told: tuple[logging.Logger, io.StringIO], words: str, line: str
) -> None:
    log, text = told
    log.warning("somebody said %s here", words)
    assert re.fullmatch(rf"\S+ \S+ WARNING a\.log: somebody said {re.escape(line)} here\n", text.getvalue())


def test_a_traceback_is_below_its_line_and_forges_none(told: tuple[logging.Logger, io.StringIO]) -> None:
    log, text = told
    try:
        raise ValueError(f"x\n{FORGED}\x1b[2J")
    except ValueError:
        log.exception("it failed")
    first, *others = text.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("ERROR a.log: it failed")
    assert len(others) > 3 and all(line.startswith("    ") and line.isprintable() for line in others)


@given(st.text())
def test_any_text_is_one_printable_line(text: str) -> None:
    assert escaped(text).isprintable()
