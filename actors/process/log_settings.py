"""Settings of the log, which server and node both have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actors.config import kinds as kind
from actors.config.kinds import Setting
from actors.process.log_lines import FORMATS, LEVELS

LOG_SETTINGS: Final[Mapping[str, Setting]] = {
    "log_format": Setting(
        kind.one_of(*FORMATS),
        "lines of the [log](operations.md#logs): `text` for people, or `json`, an object a line",
    ),
    "log_level": Setting(
        kind.one_of(*LEVELS),
        "what the log says at least: `debug` (each step of each job), `info`, `warning` or `error`",
        live=True,
    ),
}
