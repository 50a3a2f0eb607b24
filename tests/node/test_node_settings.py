"""The node's settings: from where they come, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.settings import NodeSettings, SettingsError, load_settings


def test_without_anything_they_are_the_contracts() -> None:
    found = load_settings({}, {})
    assert (found.port, found.host, found.max_age) == (9000, "127.0.0.1", 864_000.0)
    assert found.data == Path("data").absolute() and found.slots is None and found.on_stop == "leave"


def test_variables_set_and_flags_win() -> None:
    environ = {"PORT": "9100", "HOST": "0.0.0.0", "DATA_PATH": "/d", "MAX_AGE": "60"}
    found = load_settings(environ, {"port": "0", "slots": "4", "upload_limit": "400M", "host": None})
    assert found == NodeSettings(
        port=0, host="0.0.0.0", data=Path("/d"), max_age=60.0, slots=4, upload_limit=400 << 20
    )


def test_a_variable_set_to_nothing_is_not_set_and_those_of_the_other_side_are_ignored() -> None:
    environ = {
        "PORT": "",
        "DB_PATH": "x",
        "SERVICE_A_UPLOAD_URL": "y",
        "ORCHESTRATOR_PORT": "tcp://10.0.0.1:5000",
    }
    assert load_settings(environ, {}).port == 9000


def test_every_mistake_is_told_at_once_with_name_value_and_what_was_expected() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {"PORT": "8_0", "MAX_AGE": "ten days"},
            {"slots": "0", "on_stop": "stop", "upload_limit": "-1", "grace": "nan", "tick": "0"},
        )
    lines = caught.value.lines
    assert len(lines) == 7
    assert lines[0] == "PORT: '8_0' was given, expected a port number from 0 to 65535 (0: any free one)"
    named = [line.split(":")[0] for line in lines]
    assert named == ["PORT", "MAX_AGE", "--slots", "--on-stop", "--grace", "--tick", "--upload-limit"]


@pytest.mark.parametrize("port", ["65536", "-1", "٧", " 80", "80 ", "0x50", "1e3", ""])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(SettingsError):
        load_settings({}, {"port": port})
