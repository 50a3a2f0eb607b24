"""Which version an upgrade is tried from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from testbed import packages
from testbed.packages import PackagingFailed, build_commit, find_earlier


class Repository:
    """One with a version in pyproject.toml, in the place of this one."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.git("init", "-q")

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "tag.gpgSign=false")
        done = subprocess.run(
            ["git", "-C", str(self.place), *who, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, version: str, more: str = "") -> str:
        (self.place / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n{more}')
        self.git("add", "pyproject.toml")
        self.git("commit", "-q", "-m", "A step")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(packages, "ROOT", tmp_path / "repository")
    return Repository(tmp_path / "repository")


def test_the_newest_tag_before_the_commit_is_taken(repository: Repository) -> None:
    for version in ("3.0.0", "3.9.0", "3.10.0"):
        repository.commit(version)
        repository.git("tag", f"v{version}")
    assert find_earlier() == "v3.9.0"
    repository.commit("3.11.0")
    assert find_earlier() == "v3.10.0"


def test_without_a_tag_it_is_the_commit_that_began_the_version(repository: Repository) -> None:
    repository.commit("2.9.0")
    begun = repository.commit("3.0.0")
    assert find_earlier() is None  # this commit is no earlier one
    repository.commit("3.0.0", "# more\n")
    assert find_earlier() is not None
    assert begun.startswith(str(find_earlier()))


def test_a_clone_of_the_newest_commit_alone_has_none(repository: Repository, tmp_path: Path) -> None:
    repository.commit("3.0.0")
    repository.commit("3.0.0", "# more\n")
    shallow = tmp_path / "shallow"
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.place}", str(shallow))
    repository.place.rename(tmp_path / "whole")
    shallow.rename(repository.place)
    assert find_earlier() is None


def test_a_tree_without_git_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    assert find_earlier() is None


def test_a_commit_that_is_not_there_is_told(repository: Repository, tmp_path: Path) -> None:
    repository.commit("3.0.0")
    with pytest.raises(PackagingFailed, match=r"v2\.8\.0"):
        build_commit("v2.8.0", tmp_path / "earlier")
