"""The node's settings: from where they come, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.config.tables import SettingsError
from node.settings import NodeSettings, load_settings


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
    lines = caught.value.mistakes
    assert len(lines) == 7
    assert lines[0] == "PORT: '8_0' was given, expected a port number from 0 to 65535 (0: any free one)"
    named = [line.split(":")[0] for line in lines]
    assert named == ["PORT", "MAX_AGE", "--slots", "--on-stop", "--grace", "--tick", "--upload-limit"]


@pytest.mark.parametrize("port", ["65536", "-1", "٧", " 80", "80 ", "0x50", "1e3", ""])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(SettingsError):
        load_settings({}, {"port": port})


def written(directory: Path, text: str) -> Path:
    path = directory / "node.toml"
    path.write_text(text)
    return path


def test_a_file_wins_over_variables_and_flags_over_both(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """
        port = 9200
        host = "::1"
        data = "/from-file"
        slots = 3
        max_age = 3600
        grace = 2.5
        on_stop = "kill"
        upload_limit = "1M"
        pass_env = ["LANG", "LC_*"]
        [job_env]
        OMP_NUM_THREADS = "4"
        """,
    )
    found = load_settings({"PORT": "9100", "HOST": "0.0.0.0", "PASS_ENV": "X"}, {"slots": "5"}, config)
    assert found == NodeSettings(
        port=9200,
        host="::1",
        data=Path("/from-file"),
        slots=5,
        max_age=3600.0,
        grace=2.5,
        on_stop="kill",
        upload_limit=1 << 20,
        pass_env=("LANG", "LC_*"),
        job_env={"OMP_NUM_THREADS": "4"},
    )


def test_mistakes_of_all_three_sources_are_told_together(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """
        slot = 3
        port = true
        max_age = "1_0"
        pass_env = "A=B"
        job_env = { "ORCHESTRATOR_JOB_ID" = "7" }
        """,
    )
    with pytest.raises(SettingsError) as caught:
        load_settings({"PASS_ENV": "A;B"}, {"grace": "x"}, config)
    lines = caught.value.mistakes
    assert len(lines) == 7 and lines[1] == f"{config}: slot: there is no such setting; did you mean slots?"
    for line, name in zip(
        lines, ["PASS_ENV", "slot", "port", "max_age", "pass_env", "job_env", "--grace"], strict=True
    ):
        assert name in line


@pytest.mark.parametrize(("text", "why"), [("port =", "is no TOML"), (None, "cannot be read")])
def test_a_file_that_cannot_be_used_is_one_mistake(tmp_path: Path, text: str | None, why: str) -> None:
    config = tmp_path / "missing" if text is None else written(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {}, config)
    (line,) = caught.value.mistakes
    assert line.startswith(f"{config}: {why}")
