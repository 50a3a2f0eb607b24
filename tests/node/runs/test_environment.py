"""What scripts see of the node's environment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.confinement.grants import Grants
from node.runs.environment import job_environment
from node.settings import NodeSettings, load_settings

ALWAYS = {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "SHELL": "/bin/bash"}
SECRET = {
    "AWS_SECRET_ACCESS_KEY": "x",
    "DATABASE_URL": "x",
    "HOME": "/root",
    "TMPDIR": "/gone",
    "LD_PRELOAD": "x.so",
    "LD_LIBRARY_PATH": "/opt",
    "PYTHONPATH": "/opt",
    "CDPATH": "/",
    "SHELLOPTS": "noexec",
    "BASHOPTS": "x",
    "POSIXLY_CORRECT": "1",
    "BASH_ENV": "/x",
    "ENV": "/x",
    "BASH_FUNC_ls%%": "() { :; }",
    "PORT": "1",
    "HOST": "x",
    "DATA_PATH": "/x",
    "MAX_AGE": "1",
    "SERVICE_X_UPLOAD_URL": "x",
    "ORCHESTRATOR_TOKEN": "x",
    "PASS_ENV": "x",
    "NETWORK": "1",
    "SCRIPT_ENV_X": "x",
}


def seen(there: dict[str, str], **said: str) -> dict[str, str]:
    return job_environment({"PATH": "/bin", "LANG": "C.UTF-8", **there}, load_settings(said, {}), "any")


def test_nothing_passes_that_nobody_named() -> None:
    assert seen(SECRET) == {**ALWAYS, "LANG": "C.UTF-8"}


@pytest.mark.parametrize("named", ["DATABASE_URL,AWS_*", "DATABASE_URL AWS_*", " DATABASE_URL ,\tAWS_* ,"])
def test_what_is_named_passes(named: str) -> None:
    also = {"AWS_SECRET_ACCESS_KEY": "x", "DATABASE_URL": "x"}
    assert seen(SECRET, PASS_ENV=named) == {**ALWAYS, "LANG": "C.UTF-8", **also}


def test_a_glob_takes_neither_what_is_the_node_s_nor_what_changes_every_bash() -> None:
    passed = ("AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "HOME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH")
    assert seen(SECRET, PASS_ENV="*") == {
        **ALWAYS,
        "LANG": "C.UTF-8",
        **{name: SECRET[name] for name in (*passed, "PYTHONPATH", "CDPATH")},
    }
    assert seen(SECRET, PASS_ENV="SHELLOPTS ORCHESTRATOR_TOKEN")["SHELLOPTS"] == "noexec"
    assert "ORCHESTRATOR_TOKEN" not in seen(SECRET, PASS_ENV="SHELLOPTS ORCHESTRATOR_TOKEN")


def test_a_service_gets_what_its_table_names_besides() -> None:
    both = {"PASS_ENV": "HOME"}
    settings = replace(load_settings(both, {}), services={"docking": Grants(env=("LD_*", "BASH_ENV"))})
    there = {"HOME": "/h", "LD_LIBRARY_PATH": "/opt", "BASH_ENV": "/x", "ENV": "/x"}
    found = {name: job_environment(there, settings, name) for name in ("docking", "other")}
    assert {"HOME": "/h", "LD_LIBRARY_PATH": "/opt", "BASH_ENV": "/x"}.items() <= found["docking"].items()
    assert "ENV" not in found["docking"]
    assert found["other"].keys() & there.keys() == {"HOME"}


@pytest.mark.parametrize(
    ("there", "locale"),
    [
        ({"LANG": "de_DE.UTF-8", "LC_TIME": "C"}, {"LANG": "de_DE.UTF-8"}),
        ({"LANG": "", "LC_ALL": "fr_FR.utf8"}, {"LC_ALL": "fr_FR.utf8"}),
        ({"LANG": "de_DE.UTF-8@euro"}, {"LANG": "de_DE.UTF-8@euro"}),
        ({"LANG": "C", "LC_ALL": "en_US.ISO-8859-1"}, {"LANG": "C.UTF-8"}),
        ({"LANG": "POSIX", "LC_CTYPE": "en_US.UTF-8"}, {"LANG": "C.UTF-8", "LC_CTYPE": "en_US.UTF-8"}),
        ({"LANG": "C.UTF-8", "TZ": "Europe/Rome"}, {"LANG": "C.UTF-8", "TZ": "Europe/Rome"}),
    ],
)
def test_a_locale_is_one_of_utf_8(there: dict[str, str], locale: dict[str, str]) -> None:
    assert seen(there) == {**ALWAYS, **locale}


def test_what_is_set_for_them_comes_on_top() -> None:
    own = NodeSettings(job_env={"PATH": "/opt/bin", "PYTHONUNBUFFERED": "", "N": "4"})
    assert job_environment({}, own, "any") == {
        "PATH": "/opt/bin",
        "PYTHONUNBUFFERED": "",
        "SHELL": "/bin/bash",
        "N": "4",
        "LANG": "C.UTF-8",
    }


def test_without_a_path_there_is_a_usual_one() -> None:
    assert "/usr/bin" in job_environment({}, NodeSettings(), "any")["PATH"].split(":")
