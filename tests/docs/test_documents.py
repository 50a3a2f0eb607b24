"""The documents say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import draw_lifecycle
import keep_release
import list_settings
import pytest

from actors.config.tables import SettingsError
from actors.domain.limits import LIMITS
from node import settings as node_settings
from orchestrator import cli
from orchestrator.config import settings as server_settings
from orchestrator.config.changes import LIVE

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(p for name in ("docs", "examples", "packaging") for p in (ROOT / name).rglob("*.md")),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_diagram_of_states_is_drawn_from_the_table() -> None:
    text = draw_lifecycle.DOCUMENT.read_text(encoding="utf-8")
    assert text == draw_lifecycle.drawn(text), "type: .venv/bin/python scripts/draw_lifecycle.py"


def test_every_move_of_the_table_is_in_the_diagram_and_no_other() -> None:
    text = draw_lifecycle.section().partition("```mermaid")[2].partition("```")[0]
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", text, re.MULTILINE))
    assert drawn == {(source, target) for source, targets in draw_lifecycle.JOB.items() for target in targets}


def test_tables_of_settings_are_written_from_their_declarations() -> None:
    for document in list_settings.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert text == list_settings.listed(text), "type: .venv/bin/python scripts/list_settings.py"


def test_every_table_of_settings_is_in_a_document() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in list_settings.DOCUMENTS)
    assert sorted(found["name"] for found in list_settings.TABLE.finditer(text)) == sorted(
        list_settings.tables()
    )


def test_every_row_says_what_it_is_about() -> None:
    for name, rows in list_settings.tables().items():
        for row in rows:
            assert row["meaning"] and (row.get("in the file") or row["flag"]), (name, row)


def test_a_default_that_is_a_number_has_a_unit() -> None:
    for name, rows in list_settings.tables().items():
        for row in rows:
            key = row.get("in the file", "").strip("`")
            if key and key not in ("port", "node_port", "open_contract"):
                assert row["unit"] or not row["default"][:1].isdigit() or "." in row["default"], (name, row)


def test_every_variable_sets_a_key() -> None:
    assert set(server_settings.VARIABLES.values()) <= server_settings.SERVER.keys()
    assert {name.lower() for name in server_settings.SERVICE_VARIABLES} <= server_settings.SERVICE.keys()
    assert set(node_settings.VARIABLES.values()) <= node_settings.SETTINGS.keys()
    assert LIMITS.keys() <= server_settings.SERVICE.keys()


def test_variables_of_the_server_are_those_that_it_reads() -> None:
    given = {"PORT": "1", "HOST": "h", "DB_PATH": "/d", "DATA_PATH": "/f", "MAX_AGE": "2"}
    read = server_settings.load({**given, "SERVICE_A_B_NODES": "http://n:1"})
    assert (read.port, read.host, str(read.db_path), str(read.data_path)) == (1, "h", "/d", "/f")
    assert read.max_age == 2.0
    assert list(read.services) == ["a_b"]


def test_settings_that_change_at_once_are_those_that_are_declared_so() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = text.partition("| changes at once |")[2].partition("\n\n")[0].splitlines()[1:]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert named == LIVE - {"services"}


def test_every_variable_of_a_service_is_read() -> None:
    names = {f"SERVICE_X_{name}" for name in server_settings.SERVICE_VARIABLES}
    with pytest.raises(SettingsError) as refused:
        server_settings.load({f"SERVICE_X_{name.upper()}": "0x" for name in server_settings.SERVICE})
    assert {mistake.partition(":")[0] for mistake in refused.value.mistakes} == names


def test_every_setting_of_the_node_has_a_flag_that_may_be_seen() -> None:
    # A token as an argument would be seen by whoever lists processes.
    in_the_file_alone = {"pass_env", "job_env", "env", "token", "pair_token"}
    flags = {option.name for option in list_settings.options(cli.load_command("node"))}
    assert flags - {"check"} == node_settings.SETTINGS.keys() - in_the_file_alone


def test_variables_that_a_script_sees_are_documented() -> None:
    told = set(
        re.findall(r"^\| `(ORCHESTRATOR_\w+)` \|", CONFIGURATION.partition("## The node")[2], re.MULTILINE)
    )
    assert told - node_settings.VARIABLES.keys() == {
        f"ORCHESTRATOR_{name}" for name in ("JOB_ID", "ATTEMPT", "SERVICE", "USER_ID", "PROGRESS")
    }


def test_changes_of_this_version_stand_on_top() -> None:
    told = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert told[0] == keep_release.project_version()


def test_what_troubleshooting_quotes_is_what_the_program_says() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    first = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    quoted = {said for cell in first for said in re.findall(r"`([^`]* [^`]*)`", cell)}
    # A sentence may go on in the next line of the code.
    joined = re.sub(
        r'"\s*\n\s*f?"',
        "",
        "".join(
            path.read_text(encoding="utf-8")
            for room in ("actors", "node", "orchestrator")
            for path in sorted((ROOT / room).rglob("*.py"))
        ),
    )
    said = re.sub(r"\{name\}|\{number\}", "", joined)
    assert len(quoted) > 15
    assert {each for each in quoted if each not in joined and each not in said} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [
        target for target in targets if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []
