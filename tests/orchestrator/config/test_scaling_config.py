"""Tables `[scaling.NAME]` become what a service scales by and its provider, or every mistake at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from actors.config.tables import SettingsError
from actors.domain.scaling import ScalingLimits
from orchestrator.config.scaling import (
    COMMAND,
    EC2,
    LIMITS,
    LOCAL_DEFAULTS,
    CommandSettings,
    Ec2Settings,
    ScalingConfig,
    autoscale_range,
    for_up,
)
from orchestrator.config.settings import Settings, load
from orchestrator.scaling.providers.build import build_providers

ROOT = Path(__file__).parents[3]
README = ROOT / "examples" / "providers" / "openstack" / "README.md"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str) -> Settings:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return load({}, path)

    return read


def mistakes(read: Any, text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(text)
    return [line.partition("settings.toml: ")[2] for line in caught.value.mistakes]


def test_without_a_table_nothing_scales(read: Any) -> None:
    assert read("[services.a]").scaling == {}


def test_an_empty_table_scales_by_processes_of_this_machine(read: Any) -> None:
    settings = read("[services.a]\n[scaling.a]\n")
    assert settings.scaling == {"a": ScalingConfig(ScalingLimits("a", **LOCAL_DEFAULTS))}
    assert settings.scaling["a"].provider == "local"


def test_every_limit_can_be_set(read: Any) -> None:
    fields = {field.name for field in dataclasses.fields(ScalingLimits)} - {"service"}
    assert set(LIMITS) == fields
    values = {name: 2 + number for number, name in enumerate(sorted(fields))}
    values |= {"min_nodes": 1, "boot_backoff": 1}
    table = "\n".join(f"{name} = {value}" for name, value in values.items())
    settings = read(f"[services.a]\n[scaling.a]\n{table}\n")
    assert settings.scaling["a"].limits == ScalingLimits("a", **values)


def test_commands_are_read(read: Any) -> None:
    settings = read(
        'join_url = "http://10.0.0.1:5000"\n[services.a]\n[scaling.a]\nprovider = "command"\n'
        '[scaling.a.command]\ncreate = "c"\nlist = "l"\nterminate = "t"\ndeadline = 120\n'
    )
    assert settings.join_url == "http://10.0.0.1:5000"
    config = settings.scaling["a"]
    assert (config.provider, config.machines) == ("command", CommandSettings("c", "l", "t", 120.0))
    assert config.limits == ScalingLimits("a"), "the quick defaults are for local nodes only"


def test_every_setting_of_ec2_is_read(read: Any) -> None:
    assert set(EC2) == {field.name for field in dataclasses.fields(Ec2Settings)}
    assert set(COMMAND) == {field.name for field in dataclasses.fields(CommandSettings)}
    settings = read(
        """
        join_url = "http://10.0.0.1:5000"
        [services.a]
        [scaling.a]
        provider = "ec2"
        [scaling.a.ec2]
        image = "ami-1"
        instance_type = "t3.small"
        region = "eu-central-1"
        endpoint_url = "http://127.0.0.1:9"
        subnet = "subnet-1"
        security_groups = ["sg-1", "sg-2"]
        key_name = "key"
        tags = { team = "astro" }
        setup = "mount /scratch"
        node_command = "sudo -u jobs orchestrator node"
        node_port = 9001
        deadline = 20
        page = 100
        [scaling.a.ec2.options.MetadataOptions]
        HttpTokens = "required"
        """
    )
    assert settings.scaling["a"].machines == Ec2Settings(
        image="ami-1",
        instance_type="t3.small",
        region="eu-central-1",
        endpoint_url="http://127.0.0.1:9",
        subnet="subnet-1",
        security_groups=("sg-1", "sg-2"),
        key_name="key",
        tags={"team": "astro"},
        setup="mount /scratch",
        node_command="sudo -u jobs orchestrator node",
        node_port=9001,
        options={"MetadataOptions": {"HttpTokens": "required"}},
        deadline=20.0,
        page=100,
    )


def test_all_mistakes_are_told_at_once_with_their_names(read: Any) -> None:
    told = mistakes(
        read,
        """
        [services.a]
        [scaling.a]
        min_node = 1
        max_nodes = "many"
        provider = "ec3"
        [scaling.b]
        min_nodes = 5
        boot_backoff = 60
        boot_backoff_most = 30
        [services.c]
        [scaling.c]
        provider = "ec2"
        [scaling.c.ec2]
        image = 7
        tags = { orchestrator = "me" }
        options = { ClientToken = "x" }
        [scaling.c.command]
        create = "c"
        [services.d]
        [scaling.d]
        provider = "command"
        command = "c"
        """,
    )
    expected = [
        'scaling.a.provider: \'ec3\' is not what was expected: "local" or "command" or "ec2"',
        "scaling.a.min_node: there is no such setting; did you mean min_nodes?",
        "scaling.a.max_nodes: 'many' is not what was expected: a whole number of nodes from 0 to 10000",
        "scaling.b: min_nodes (5) is above max_nodes (4)",
        "scaling.b: boot_backoff (60.0) is above boot_backoff_most (30.0)",
        "scaling.c.command: is of no use with the provider ec2",
        "scaling.c.ec2.image: 7 is not what was expected: some text",
        "scaling.c.ec2.tags: {'orchestrator': 'me'} is not what was expected: tags other than",
        "scaling.c.ec2.options: {'ClientToken': 'x'} is not what was expected: a table of parameters",
        "scaling.c.ec2.instance_type: is missing, and the provider ec2 needs it",
        "scaling.d.command: 'c' is not what was expected: a table [scaling.d.command]",
    ]
    assert len(told) == len(expected)
    for line, beginning in zip(told, expected, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize("text", ["scaling = 3", "scaling = [1]", "[scaling]\na = 3"])
def test_what_is_no_table_is_told(read: Any, text: str) -> None:
    (told,) = mistakes(read, text)
    assert told.startswith("scaling") and "table" in told


def test_a_service_that_is_not_there_cannot_scale(read: Any) -> None:
    (told,) = mistakes(read, "[services.a]\n[scaling.b]\n")
    assert told == "scaling.b: there is no service b: a table [services.b] makes it"


def test_machines_elsewhere_need_to_know_where_to_join(read: Any) -> None:
    commands = '[scaling.a.command]\ncreate = "c"\nlist = "l"\nterminate = "t"\n'
    (told,) = mistakes(read, f'[services.a]\n[scaling.a]\nprovider = "command"\n{commands}')
    assert told.startswith("scaling.a: the provider command needs the setting join_url")


def test_ec2_without_boto3_says_what_to_type(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (told,) = mistakes(
        read,
        'join_url = "http://h:1"\n[services.a]\n[scaling.a]\nprovider = "ec2"\n'
        '[scaling.a.ec2]\nimage = "i"\ninstance_type = "t"\n',
    )
    assert told.endswith("boto3 is missing; type: pip install 'job-orchestrator[ec2]'")


def test_the_example_for_openstack_is_what_the_settings_take(read: Any) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    settings = read("\n".join(blocks))
    assert settings.scaling["example"].provider == "command"


# ---------------------------------------------------------------------- the flag


@pytest.mark.parametrize(("text", "least", "most"), [("0:4", 0, 4), ("2:2", 2, 2), ("0:64", 0, 64)])
def test_a_range_is_read(text: str, least: int, most: int) -> None:
    assert autoscale_range(text) == (least, most)


@pytest.mark.parametrize("text", ["", "4", "4:0", "0:0", "a:b", "-1:4", "0:4:8", "0: 4", "0:٤", "0:99999"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MIN:MAX"):
        autoscale_range(text)


def test_up_scales_quickly() -> None:
    limits = for_up("example", 0, 4, 1).limits
    assert (limits.min_nodes, limits.max_nodes, limits.slots_per_node, limits.max_booting) == (0, 4, 1, 4)
    assert limits.idle_timeout <= 30 and limits.cooldown <= 30


# ---------------------------------------------------------------------- built


async def test_services_with_the_same_machines_share_a_provider(tmp_path: Path) -> None:
    async def here() -> str:
        raise AssertionError("asked before anything is made")

    commands, others = CommandSettings("c", "l", "t"), CommandSettings("c2", "l2", "t2")
    ec2 = Ec2Settings("ami-1", "t3.small", tags={"a": "b"})
    machines = {"a": None, "b": None, "c": commands, "d": commands, "e": others, "f": ec2, "g": ec2}
    providers = build_providers(
        {name: ScalingConfig(ScalingLimits(name), made) for name, made in machines.items()},
        data=tmp_path,
        owner="ab" * 16,
        here=here,
        join_url="http://10.0.0.1:5000",
    )
    assert {name: provider.name for name, provider in providers.items()} == {
        **dict.fromkeys("ab", "local"),
        **dict.fromkeys("cde", "command"),
        **dict.fromkeys("fg", "ec2"),
    }
    assert providers["a"] is providers["b"]
    assert providers["c"] is providers["d"] is not providers["e"]
    assert providers["f"] is providers["g"]
    assert list(await providers["a"].list()) == []
