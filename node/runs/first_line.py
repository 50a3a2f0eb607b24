"""What the first line of a `run.sh` asks of bash, which is given the script by name and does not see it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from actors.wire.files.names import printable

_SHELLS: Final = ("bash", "sh", "dash")
_OPTION: Final = re.compile(r"[-+][A-Za-z]+|--[a-z][a-z-]*|--?")
_TAKES_A_WORD: Final = re.compile(r"[-+][A-Za-z]*[oO]|--rcfile|--init-file")
_RUNS_NOTHING: Final = re.compile(r"-[A-Za-z]*[csnD][A-Za-z]*|--(help|version|dump-.*|pretty-print)")
_LONGEST: Final = 4096


class FirstLineError(Exception):
    """With these options bash would not run the script, or cannot be run itself."""


@dataclass(frozen=True, slots=True)
class FirstLine:
    """`options` for bash, and what is to be said of the rest."""

    options: tuple[str, ...] = ()
    note: str = ""


def read_first_line(line: bytes) -> FirstLine:
    """The options of `#!/bin/bash -e`, of `#!/usr/bin/env bash -eu` with or without its `-S`, and of sh, as
    far as they are options. Raises `FirstLineError`."""
    if not line.startswith(b"#!"):
        return FirstLine()
    words = os.fsdecode(line[2:_LONGEST]).split()
    if words and os.path.basename(words[0]) == "env":
        words = [re.sub(r"^(-S|--split-string=?)", "", word) for word in words[1:]]
        words = [word for word in words if word]
    if not words:
        return FirstLine()
    program = os.path.basename(words.pop(0))
    if program not in _SHELLS:
        return FirstLine(note=f"run.sh names {printable(program)} in its first line; it was run by bash")
    options: list[str] = []
    while words and _OPTION.fullmatch(words[0]):
        option = words.pop(0)
        if _RUNS_NOTHING.fullmatch(option):
            raise FirstLineError(f"the first line of run.sh gives bash {option}: then it does not run it")
        options.append(option)
        if _TAKES_A_WORD.fullmatch(option) and words:
            if "\0" in words[0]:  # the one thing that no program can be given
                raise FirstLineError(f"the first line of run.sh gives bash {option} a NUL byte")
            options.append(words.pop(0))
        if option in ("-", "--"):
            break
    ignored = f"{printable(words[0])} in the first line of run.sh was ignored" if words else ""
    return FirstLine(tuple(options), ignored)
