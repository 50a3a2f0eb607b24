"""The OpenStack example, with a client that keeps its servers in a directory instead of a cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.ports.scaling import ProviderError
from orchestrator.config.scaling import CommandSettings
from orchestrator.scaling.providers.command import CommandProvider

SCRIPT = Path(__file__).parents[2] / "examples" / "providers" / "openstack" / "machines.sh"
FIRST, SECOND = "0123456789abcdef" * 2, "fedcba9876543210" * 2

# `servers/ID` has "STATUS NAME"; `calls` has the arguments.
CLIENT = """#!/bin/bash
cd "$(dirname "$0")"
echo "$*" >> calls
[ ! -e broken ] || { echo "HTTP 503 from keystone" >&2; exit 1; }
case "$1 $2" in
"server list")
    pattern=${*: -1}
    for file in servers/*; do
        [ -e "$file" ] || continue
        read -r status name < "$file"
        [[ $name =~ $pattern ]] && echo "${file#servers/} $status $name"
    done
    exit 0 ;;
"server create")
    id=vm-$(ls servers | wc -l)
    echo "BUILD ${*: -1}" > "servers/$id"
    while [ "$1" != --user-data ]; do shift; done
    cp "$2" "$id.user-data"
    echo "$id" ;;
"server delete") rm "servers/${*: -1}" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "servers").mkdir()
    client = tmp_path / "openstack"
    client.write_text(CLIENT)
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("IMAGE", "FLAVOR", "NETWORK"):
        monkeypatch.setenv(f"MACHINE_{name}", name.lower())
    return tmp_path


@pytest.fixture
def provider(cloud: Path) -> CommandProvider:
    commands = CommandSettings(f"'{SCRIPT}' create", f"'{SCRIPT}' list", f"'{SCRIPT}' terminate")
    slots = {"example": 3}
    return CommandProvider(commands, slots=slots, join_url="http://10.0.0.1:5000", owner="ab" * 16)


async def test_machines_are_made_once_each_told_and_ended(cloud: Path, provider: CommandProvider) -> None:
    first = await provider.create(FIRST, "example")
    assert await provider.create(FIRST, "example") == first, "the same token, the same machine"
    await provider.create(SECOND, "exa-mple.b_2")
    (cloud / "servers" / "vm-9").write_text("ACTIVE somebody-elses")

    start = (cloud / f"{first.machine_id}.user-data").read_text()
    assert f"--join 'http://10.0.0.1:5000' --join-services 'example' --machine '{FIRST}'" in start
    assert "--slots 3 " in start
    assert {machine.token: machine.service for machine in await provider.list()} == {
        FIRST: "example",
        SECOND: "exa-mple.b_2",
    }

    await provider.terminate([first.machine_id, "vm-gone"])
    await provider.terminate([first.machine_id])
    assert [machine.token for machine in await provider.list()] == [SECOND]
    assert (cloud / "servers" / "vm-9").exists()


async def test_a_cloud_that_does_not_answer_is_an_error_for_each_command(
    cloud: Path, provider: CommandProvider
) -> None:
    machine = await provider.create(FIRST, "example")
    (cloud / "broken").touch()
    for call in (
        provider.create(SECOND, "example"),
        provider.list(),
        provider.terminate([machine.machine_id]),
    ):
        with pytest.raises(ProviderError, match="HTTP 503 from keystone"):
            await call
    assert len(list((cloud / "servers").iterdir())) == 1


async def test_an_empty_cloud_has_no_machines(provider: CommandProvider) -> None:
    assert list(await provider.list()) == []
