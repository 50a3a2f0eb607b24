"""The files that callbacks need: what they are signed with, and whose certificates are believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from orchestrator.callbacks.keys import KeyFileError, load_secrets, load_trust

OLD, NEW = "whsec_" + "A" * 43 + "=", "whsec_" + "B" * 43 + "="


@pytest.mark.parametrize("text", [None, "", "hunter2", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_bad_file_of_authorities_is_told_in_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KeyFileError) as refused:
        load_trust(path)
    told = str(refused.value)
    assert str(path) in told and "callback_ca_file" in told and "\n" not in told and "hunter2" not in told


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "callback.secret"
    (made,) = load_secrets(path)
    assert load_secrets(path) == (made,)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    Webhook(made)


def test_more_lines_are_more_secrets(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{NEW}\n{OLD}\n")
    assert load_secrets(path) == (NEW, OLD)


@pytest.mark.parametrize(
    "text", ["", "\n", "hello", "whsec_", "whsec_QUFB", "whsec_" + "é" * 40, NEW * 200, "A" * 44]
)
def test_a_bad_secret_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(KeyFileError) as refused:
        load_secrets(path)
    told = str(refused.value)
    assert str(path) in told and "\n" not in told and "AAAA" not in told


def test_a_secret_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="callback_secret_file"):
        load_secrets(tmp_path)
