"""`orchestrator node --check`: all mistakes at once, what the node would run with, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli import node_command


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "node.toml"


def check(file: Path, *flags: str) -> Result:
    return CliRunner().invoke(node_command, ["--check", "--config", str(file), *flags])


def test_all_mistakes_are_told_at_once_those_of_files_too(file: Path) -> None:
    (file.parent / "cert.pem").write_text("none")
    file.write_text('slots = -1\nca_file = "none"\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n')
    done = check(file, "--proxy", "http://p:1")
    assert (done.exit_code, done.stdout) == (2, "")
    told = done.stderr.splitlines()
    for each in ("slots", "--proxy: needs --join", "--ca-file", "--tls-cert, --tls-key: "):
        assert len([line for line in told if each in line]) == 1, each
    assert len(told) == 4


def test_a_certificate_without_its_key_is_named(file: Path) -> None:
    file.write_text('tls_cert = "/etc/cert.pem"\n')
    done = check(file)
    assert done.exit_code == 2
    assert done.stderr == (
        "--tls-cert: /etc/cert.pem is named without its key: --tls-key names that file, too\n"
    )


def test_what_it_would_run_with_is_told_and_what_each_service_is_granted(file: Path) -> None:
    file.write_text(
        'join = "http://server:5000"\njoin_services = ["docking", "folding"]\nread = ["/usr"]\n'
        f'token = "{"t" * 20}"\nproxy = "http://me:secret@proxy:3128"\nlabels = {{gpu = "a100"}}\n'
        '[services.docking]\nnetwork = true\n[services.dockng]\nwrite = ["/none/there"]\n'
    )
    done = check(file, "--grace", "7.5")
    assert done.exit_code == 0
    told = done.stdout.splitlines()
    assert {
        "host: 127.0.0.1",
        "port: 9000",
        f"data: {file.parent}/data",
        "executor: auto",
        "slots: whatever is sent",
        "grace: 7.5",
        "join: http://server:5000",
        "join_services: docking, folding",
        "labels: gpu=a100",
        "token: (is set)",
        "proxy: (is set)",
        "scripts may: read /usr",
        "scripts of docking may: read /usr; network",
        "scripts of folding may: read /usr",
    } == set(told)
    assert "services.dockng: this node does not join for it, but for docking, folding" in done.stderr
    assert "did you mean docking?" in done.stderr and "there is no /none/there" in done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["node.toml"], "nothing is made"


def test_commands_of_slurm_that_are_missing_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(file.parent))
    file.write_text('executor = "slurm"\n')
    done = check(file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("--executor: slurm needs sbatch, squeue, ")
