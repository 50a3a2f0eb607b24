"""What scripts/setup installs: all that the project asks for, and every file of it by its hash."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy" / "lock"
FILES = ("run.txt", "dev.txt", "audit.txt")


def locked(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each package with its hashes. Comments are no part of it."""
    lines = (LOCK / name).read_text().splitlines()
    text = "\n".join(line for line in lines if "#" not in line)
    for entry in text.replace("\\\n", "").splitlines():
        requirement, *hashes = entry.split("--hash=")
        yield Requirement(requirement.strip()), [each.strip() for each in hashes]


@pytest.mark.parametrize("name", FILES)
def test_every_package_is_pinned_and_has_hashes_and_no_address(name: str) -> None:
    found = list(locked(name))
    assert len(found) > 20
    for requirement, hashes in found:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement
        assert requirement.url is None
    assert "://" not in (LOCK / name).read_text()


@pytest.mark.parametrize(("name", "extras"), [("run.txt", ()), ("dev.txt", ("dev", "ec2"))])
def test_all_that_the_project_asks_for_is_there(name: str, extras: tuple[str, ...]) -> None:
    """When this fails: scripts/lock"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in extras:
        wanted += project["project"]["optional-dependencies"][extra]
    there: dict[str, list[Requirement]] = {}
    for requirement, _ in locked(name):
        there.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    for requirement in map(Requirement, wanted):
        pins = there.get(canonicalize_name(requirement.name), [])
        assert pins, requirement
        for pin in pins:
            assert next(iter(pin.specifier)).version in requirement.specifier, (pin, requirement)


def test_the_project_runs_on_what_it_is_tested_with() -> None:
    run, dev = ({(one.name, str(one.specifier)) for one, _ in locked(name)} for name in FILES[:2])
    assert run <= dev
