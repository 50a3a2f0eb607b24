"""Tokens that are declared in a file, and the one of the server's own account."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.data import damage

from orchestrator.access.roles import Role
from orchestrator.access.token_files import (
    OPERATOR_FILE,
    BadTokensFile,
    find_operator_token,
    keep_operator_token,
    link_operator_token,
    read_declared,
    read_token,
    unlink_operator_token,
)
from orchestrator.access.tokens import hash_of, is_token
from orchestrator.cli import main

SERVICES = {"docking": None, "example": None}
HASH = "0" * 64


def declare(*options: str) -> tuple[str, str]:
    """What the command prints, and the secret."""
    done = CliRunner().invoke(main, ["token", "declare", *options])
    assert done.exit_code == 0, done.stderr
    return done.stdout, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "role", "services", "user"),
    [
        (("--role", "portal"), Role.PORTAL, (), None),
        (("--role", "portal", "--service", "docking", "--name", 'a "b" ü'), Role.PORTAL, ("docking",), None),
        (("--role", "user", "--user", "-7", "--expires", "90d"), Role.USER, (), -7),
        (("--role", "node", "--max-slots", "4", "--from", "10.0.0.0/8"), Role.NODE, (), None),
    ],
)
def test_what_the_command_declares_is_read(
    tmp_path: Path, options: tuple[str, ...], role: Role, services: tuple[str, ...], user: int | None
) -> None:
    lines, secret = declare(*options)
    assert is_token(secret) and secret not in lines
    path = tmp_path / "tokens.toml"
    path.write_text(lines + declare("--role", "reader")[0])
    first, second = read_declared(path, SERVICES)
    assert (first.hash, first.role, first.services, first.user) == (hash_of(secret), role, services, user)
    assert (first.expires_at is not None) is ("--expires" in options)
    assert (first.max_slots, first.sources) == ((4, ("10.0.0.0/8",)) if role is Role.NODE else (None, ()))
    assert second.role is Role.READER and second.id != first.id


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "cannot be read"),
        ("a = 1", "[[tokens]]"),
        ("tokens = 1", "[[tokens]]"),
        ('[[tokens]]\nrole = "portal"', "token 1: hash"),
        (f'[[tokens]]\nhash = "{HASH}"', "role"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "king"', "role"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nsecret = "x"', "secret is unknown"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nservices = ["nothing"]', "services"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nservices = [{{}}]', "services"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nuser = 1', "user"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "user"\nuser = true', "user"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nexpires = 1', "expires"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nname = "a\\nb"', "name"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "portal"\nmax_slots = 1', "max_slots"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "node"\nmax_slots = 0', "max_slots"),
        (f'[[tokens]]\nhash = "{HASH}"\nrole = "node"\nsources = ["x"]', "sources"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(BadTokensFile) as caught:
        read_declared(path, SERVICES)
    assert told in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadTokensFile, match="No such file"):
        read_declared(tmp_path / "none", SERVICES)


WAYS = ("missing", "empty", "half", "zeros", "a_directory", "huge", "no_utf8")


@pytest.mark.parametrize("way", WAYS)
def test_the_account_s_own_token_is_there_whatever_became_of_its_file(tmp_path: Path, way: str) -> None:
    first = keep_operator_token(tmp_path, 1.0)
    assert keep_operator_token(tmp_path, 2.0).hash == first.hash
    path = tmp_path / OPERATOR_FILE
    getattr(damage, way)(path)
    again = keep_operator_token(tmp_path, 3.0)
    assert hash_of(read_token(path.read_text())) == again.hash
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_link_leads_to_the_token_while_this_account_listens(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    token = keep_operator_token(tmp_path, 1.0)
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        link_operator_token(tmp_path, port, environ)
        assert find_operator_token("127.0.0.1", port, environ) is None, "nobody listens there"
        listener.listen()
        for host in ("127.0.0.1", "localhost"):
            found = find_operator_token(host, port, environ)
            assert found is not None and hash_of(found) == token.hash
        assert find_operator_token("192.0.2.1", port, environ) is None
        assert find_operator_token("example.org", port, environ) is None
        link_operator_token(tmp_path, port, environ)
        unlink_operator_token(tmp_path / "other", port, environ)
        assert find_operator_token("127.0.0.1", port, environ) is not None
        unlink_operator_token(tmp_path, port, environ)
        assert find_operator_token("127.0.0.1", port, environ) is None
    assert os.listdir(tmp_path / "state/job-orchestrator") == []
