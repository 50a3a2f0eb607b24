"""What scripts may, as the node's settings say it."""

from __future__ import annotations

import grp
from pathlib import Path

import pytest

from actors.config.tables import SettingsError
from node.confinement.grants import NOTHING_GRANTED, Grants
from node.settings import load_settings

GROUP = grp.getgrall()[0].gr_name


@pytest.fixture
def node_data(tmp_path: Path) -> dict[str, str]:
    return {"DATA_PATH": str(tmp_path / "data")}


def written(directory: Path, text: str) -> Path:
    path = directory / "node.toml"
    path.write_text(text)
    return path


def test_nothing_is_granted_by_itself() -> None:
    found = load_settings({}, {})
    assert found.grants_of("any") == NOTHING_GRANTED
    assert not NOTHING_GRANTED.network and not NOTHING_GRANTED.containers


def test_a_service_has_what_is_said_for_all_and_its_own(tmp_path: Path, node_data: dict[str, str]) -> None:
    config = written(
        tmp_path,
        f"""
        read = ["/srv/models/"]
        env = ["LD_*"]
        network = true
        [services.docking]
        read = ["/opt/haddock", "/srv/models"]
        write = ["/scratch"]
        env = ["MODULEPATH"]
        groups = ["{GROUP}"]
        containers = true
        devices = ["nvidia"]
        [services."no.net"]
        network = false
        """,
    )
    found = load_settings({**node_data, "READ": "/from/variable"}, {}, config)
    for_all = Grants(read=(Path("/srv/models"),), env=("LD_*",), network=True)
    assert found.grants_of("any") == for_all
    assert found.grants_of("docking") == Grants(
        read=(Path("/srv/models"), Path("/opt/haddock")),
        write=(Path("/scratch"),),
        env=("LD_*", "MODULEPATH"),
        groups=(GROUP,),
        network=True,
        containers=True,
        devices=("nvidia",),
    )
    assert found.grants_of("no.net") == Grants(read=for_all.read, env=("LD_*",))


def test_variables_say_it_for_all_services_and_flags_win(node_data: dict[str, str]) -> None:
    environ = {
        **node_data,
        "READ": "/a:/b/../c",
        "WRITE": "/w",
        "NETWORK": "1",
        "CONTAINERS": "0",
        "DEVICES": "nvidia",
    }
    read = (Path("/a"), Path("/c"))
    variables = Grants(read=read, write=(Path("/w"),), network=True, devices=("nvidia",))
    assert load_settings(environ, {}).grants == variables
    flags = {"read": "/f", "network": False, "containers": True, "groups": GROUP, "devices": None}
    assert load_settings(environ, flags).grants == Grants(
        read=(Path("/f"),),
        write=(Path("/w"),),
        groups=(GROUP,),
        containers=True,
        devices=("nvidia",),
    )


def test_a_variable_s_rest_is_set_for_scripts_and_the_file_wins(tmp_path: Path) -> None:
    config = written(tmp_path, '[job_env]\nN = "file"')
    environ = {"SCRIPT_ENV_PATH": "/opt/bin:/bin", "SCRIPT_ENV_N": "variable", "SCRIPT_ENV_EMPTY": ""}
    found = load_settings(environ, {}, config).job_env
    assert found == {"PATH": "/opt/bin:/bin", "N": "file", "EMPTY": ""}


@pytest.mark.parametrize(
    "name", ["ORCHESTRATOR_JOB_ID", "SERVICE_X", "BASH_ENV", "SHELLOPTS", "BASH_FUNC_ls%%", "", "1X"]
)
def test_what_is_reserved_is_not_set_by_a_variable(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({f"SCRIPT_ENV_{name}": "x"}, {})
    (line,) = caught.value.mistakes
    assert line.startswith(f"SCRIPT_ENV_{name}: ")


def test_mistakes_are_told_with_where_they_stand(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """
        read = "relative"
        devices = ["nvidia", "amd"]
        [services.docking]
        network = "yes"
        reads = ["/a"]
        groups = ["no such group here"]
        [services]
        folding = 3
        "a b" = {}
        """,
    )
    with pytest.raises(SettingsError) as caught:
        load_settings({"NETWORK": "yes", "WRITE": "~/x"}, {}, config)
    assert [line.removeprefix(f"{config}: ").split(": ")[0] for line in caught.value.mistakes] == [
        "WRITE",
        "NETWORK",
        "read",
        "devices",
        "services.docking.network",
        "services.docking.reads",
        "services.docking.groups",
        "services.folding",
        "services.a b",
    ]
    assert "did you mean read?" in caught.value.mistakes[5]
    assert "'no such group here' is none" in caught.value.mistakes[6]


def test_nothing_leads_to_the_node_s_data_or_its_secrets(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "key.pem").write_text("key")
    (tmp_path / "beside").mkdir()
    config = written(
        tmp_path,
        f"""
        tls_cert = "{tmp_path}/cert.pem"
        tls_key = "{tmp_path}/key.pem"
        read = ["/", "{tmp_path}/beside", "{tmp_path}/missing", "{tmp_path}/data-of-others"]
        [services.docking]
        read = ["{tmp_path}/key.pem"]
        write = ["{data}/payloads", "{tmp_path}/link"]
        """,
    )
    with pytest.raises(SettingsError) as caught:
        load_settings({"DATA_PATH": str(data)}, {}, config)
    refused = [line.partition(": name others")[0] for line in caught.value.mistakes]
    assert refused == [
        f"read: / leads to the node's data ({data})",
        f"read: / leads to its key ({tmp_path}/key.pem)",
        f"{config}: services.docking.read: {tmp_path}/key.pem leads to its key ({tmp_path}/key.pem)",
        f"{config}: services.docking.write: {data}/payloads leads to the node's data ({data})",
        f"{config}: services.docking.write: {tmp_path}/link leads to the node's data ({data})",
    ]


@pytest.mark.parametrize("path", ["", "server", "server/data", "server/data/jobs"])
def test_nothing_leads_to_the_data_of_a_server(tmp_path: Path, node_data: dict[str, str], path: str) -> None:
    data = tmp_path / "up" / "server" / "data"
    (data / "jobs").mkdir(parents=True)
    (data / "operator.token").touch()
    (tmp_path / "beside").mkdir()
    load_settings({**node_data, "READ": f"{tmp_path}/beside"}, {})
    with pytest.raises(SettingsError) as caught:
        load_settings({**node_data, "WRITE": f"{tmp_path}/up/{path}"}, {})
    (line,) = caught.value.mistakes
    assert line == (
        f"write: {(tmp_path / 'up' / path)} leads to an orchestrator's data ({data}): name others"
    )
