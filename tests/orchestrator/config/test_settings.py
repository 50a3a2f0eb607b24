"""Environment, TOML file and flags become one `Settings`, or all mistakes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.config.tables import SettingsError
from actors.domain.batch_request import NOTHING_ALLOWED, BatchAllowance
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.node import NodeAddress
from orchestrator.config.settings import Settings, load
from orchestrator.nodes.addresses import merge_addresses


def mistakes(environ: dict[str, str], config: Path | None = None, **flags: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(environ, config, flags)
    return caught.value.mistakes


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def test_nothing_set_is_the_published_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({})
    assert (settings.host, settings.port, settings.max_age) == ("127.0.0.1", 5000, 864_000)
    assert settings.keep_rows == 90 * 86_400
    assert (settings.db_path, settings.data_path) == (tmp_path / "db.sqlite", tmp_path / "data")
    assert (settings.upload_limit, settings.node_lost_after) == (400 << 20, 60.0)
    assert settings.services == {}
    assert "no service is configured" in settings.warnings[0]


def test_every_variable_of_the_contract_is_read(tmp_path: Path) -> None:
    environ = {
        "PORT": "5001",
        "HOST": "0.0.0.0",
        "DB_PATH": f"{tmp_path}/l.db",
        "DATA_PATH": f"{tmp_path}/d",
        "MAX_AGE": "60",
        "KEEP_ROWS": "0",
        "SERVICE_MY_TOOL_UPLOAD_URL": "http://a:1/x/upload",
        "SERVICE_MY_TOOL_DOWNLOAD_URL": "http://b:2/y/get/",
        "SERVICE_MY_TOOL_TERMINATE_URL": "https://c/z/stop",
        "SERVICE_MY_TOOL_RUNS_PER_USER": "3",
        "SERVICE_MY_TOOL_MAX_RUNS": "7",
        "SERVICE_B_NODES": "http://n1:9000, http://n2:9000/",
    }
    settings = load(environ)
    assert (settings.port, settings.host, settings.max_age) == (5001, "0.0.0.0", 60.0)
    assert (settings.db_path, settings.data_path) == (tmp_path / "l.db", tmp_path / "d")
    assert settings.keep_rows == 0
    tool = settings.services["my_tool"]
    assert (tool.name, tool.runs_per_user, tool.max_runs) == ("my_tool", 3, 7)
    assert tool.addresses == (
        NodeAddress(
            "http://a:1/x", ("my_tool",), "http://a:1/x/upload", "http://b:2/y/get", "https://c/z/stop"
        ),
    )
    assert settings.services["b"].addresses == (
        NodeAddress("http://n1:9000", ("b",)),
        NodeAddress("http://n2:9000", ("b",)),
    )
    assert (settings.services["b"].runs_per_user, settings.services["b"].max_runs) == (5, 10)
    assert settings.warnings == ()


def test_an_upload_url_alone_is_enough() -> None:
    settings = load({"SERVICE_EXAMPLE_UPLOAD_URL": "http://node:9000/submit"})
    assert settings.services["example"].addresses == (
        NodeAddress(
            "http://node:9000",
            ("example",),
            "http://node:9000/submit",
            "http://node:9000/retrieve",
            "http://node:9000/kill",
        ),
    )


@pytest.mark.parametrize(
    ("name", "service", "key"),
    [
        ("SERVICE_A_MAX_RUNS", "a", "max_runs"),
        ("SERVICE_MAX_RUNS_MAX_RUNS", "max_runs", "max_runs"),
        ("SERVICE_A_RUNS_PER_USER", "a", "runs_per_user"),
        ("SERVICE_A_B_C_RUNS_PER_USER", "a_b_c", "runs_per_user"),
        ("SERVICE_NODES_RUNS_PER_USER", "nodes", "runs_per_user"),
    ],
)
def test_a_service_name_may_hold_underscores(name: str, service: str, key: str) -> None:
    assert getattr(load({name: "4"}).services[service], key) == 4


@pytest.mark.parametrize(
    "name", ["SERVICE_MAX_RUNS", "SERVICE_X_PORT", "SERVICE_X_MAX_RUN", "SERVICE__NODES"]
)
def test_a_service_variable_that_fits_no_pattern_is_warned_about(name: str) -> None:
    settings = load({name: "4", "SERVICE_A_NODES": "http://n"})
    (warning,) = settings.warnings
    assert name in warning


def test_variables_of_others_are_not_read() -> None:
    settings = load({"ORCHESTRATOR_PORT": "tcp://10.0.0.1:5000", "SLOTS": "x", "SERVICE_A_NODES": "http://n"})
    assert (settings.port, settings.warnings) == (5000, ())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "http", "0 to 65535"),
        ("PORT", "65536", "0 to 65535"),
        ("PORT", "-1", "0 to 65535"),
        ("PORT", "5_000", "0 to 65535"),
        ("PORT", "٥٠٠٠", "0 to 65535"),
        ("PORT", " 5000", "0 to 65535"),
        ("MAX_AGE", "soon", "a number of seconds, 0 or more"),
        ("MAX_AGE", "-1", "seconds"),
        ("MAX_AGE", "nan", "seconds"),
        ("DATA_PATH", "a\0b", "path"),
        ("SERVICE_A_RUNS_PER_USER", "0", "from 1"),
        ("SERVICE_A_MAX_RUNS", "many", "from 1"),
        ("SERVICE_A_NODES", "node:9000", "http://"),
        ("SERVICE_A_NODES", ",", "http://"),
        ("SERVICE_A_NODES", "http://a,ftp://b", "http://"),
        ("SERVICE_A_UPLOAD_URL", "http://a:99999/submit", "http://"),
        ("SERVICE_A_UPLOAD_URL", "http://a", "route"),
        ("SERVICE_A_UPLOAD_URL", "http://a/submit?x=1", "http://"),
    ],
)
def test_a_mistake_names_the_variable_the_value_and_what_was_expected(
    name: str, value: str, expected: str
) -> None:
    (line,) = mistakes({name: value})
    assert line.startswith(f"{name}: ") and repr(value) in line and expected in line
    assert "\n" not in line


def test_all_mistakes_are_told_at_once(toml: Any) -> None:
    environ = {"PORT": "x", "MAX_AGE": "y", "SERVICE_A_MAX_RUNS": "z"}
    lines = mistakes(environ, toml("upload_limit = 0\n[services.b]\nnodes = 5\n"), host="")
    assert len(lines) == 6


def test_a_url_without_an_upload_url_is_a_mistake() -> None:
    (line,) = mistakes({"SERVICE_A_DOWNLOAD_URL": "http://a/retrieve"})
    assert "SERVICE_A_DOWNLOAD_URL" in line and "SERVICE_A_UPLOAD_URL" in line


def test_a_variable_set_to_nothing_is_not_set() -> None:
    settings = load({"PORT": "", "MAX_AGE": "", "SERVICE_A_MAX_RUNS": "", "SERVICE_X": ""})
    assert (settings.port, settings.services) == (5000, {})


def test_the_file_wins_over_the_environment_and_flags_over_the_file(toml: Any) -> None:
    environ = {
        "PORT": "1",
        "HOST": "a",
        "MAX_AGE": "1",
        "SERVICE_A_MAX_RUNS": "1",
        "SERVICE_A_NODES": "http://x",
    }
    config = toml('port = 2\nhost = "b"\n[services.a]\nmax_runs = 2\n')
    settings = load(environ, config, {"port": "3", "max_age": None})
    assert (settings.port, settings.host, settings.max_age) == (3, "b", 1.0)
    assert settings.services["a"].max_runs == 2
    assert [address.url for address in settings.services["a"].addresses] == ["http://x"]


def test_every_key_of_the_file_is_read(toml: Any, tmp_path: Path) -> None:
    config = toml(
        f'host = "::1"\nport = 0\ndb_path = "{tmp_path}/x"\ndata_path = "{tmp_path}/y"\nmax_age = 1.5\n'
        "upload_limit = 1000\nkeep_free_disk = 5\nnode_lost_after = 10\ntick_seconds = 0.1\n"
        f'callback_secret_file = "{tmp_path}/z"\ncallback_ca_file = "{tmp_path}/ca"\n'
        '[services."a.b-c"]\nnodes = ["http://n:1"]\nruns_per_user = 1\nmax_runs = 2\nmax_runtime = 3.5\n'
        'max_attempts = 4\non_node_lost = "fail"\non_doubt = "resend"\n'
        'memory = "1.5G"\ncpu_time = 90.5\nprocesses = 100\nfile_size = 5_000_000\nopen_files = 64\n'
        'disk = "2T"\n'
    )
    settings = load({}, config)
    assert settings == Settings(
        host="::1",
        port=0,
        db_path=tmp_path / "x",
        data_path=tmp_path / "y",
        max_age=1.5,
        upload_limit=1000,
        callback_secret_file=tmp_path / "z",
        callback_ca_file=tmp_path / "ca",
        keep_free_disk=5,
        node_lost_after=10.0,
        tick_seconds=0.1,
        services=settings.services,
    )
    service = settings.services["a.b-c"]
    assert (service.runs_per_user, service.max_runs, service.max_attempts) == (1, 2, 4)
    assert (service.max_runtime, service.on_node_lost, service.on_doubt) == (3.5, "fail", "resend")
    assert service.limits == JobLimits(3 << 29, 90.5, 100, 5_000_000, 64, 2 << 40)


def test_a_service_has_no_limits_by_itself_and_none_by_0(toml: Any) -> None:
    services = load({}, toml("[services.a]\nmemory = 0\ncpu_time = 0\n[services.b]\nmax_runs = 1\n")).services
    assert (services["a"].limits, services["b"].limits) == (UNLIMITED, UNLIMITED)


def test_limits_that_a_node_by_its_upload_url_does_not_know_are_warned_about(toml: Any) -> None:
    config = toml('[services.a]\nmemory = "4G"\n[services.b]\nmax_runtime = 5\n')
    urls = {f"SERVICE_{name}_UPLOAD_URL": "http://n:1/submit" for name in "AB"}
    (warning,) = load(urls, config).warnings
    assert "service a has limits" in warning and "http://n:1/submit" in warning


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("prot = 5", "did you mean port?"),
        ("[service.a]\nmax_runs = 1", "did you mean services?"),
        ("[services.a]\nmax_run = 1", "did you mean max_runs?"),
        ("[services.a]\nzzz = 1", "known are nodes"),
        ("port = '5'x", "is no TOML"),
        ("port = true", "0 to 65535"),
        ("services = 5", "[services.NAME]"),
        ("[services]\na = 5", "[services.a]"),
        ("[services.'a b']\nmax_runs = 1", "name"),
        ("[services.a]\non_doubt = 'maybe'", '"fail" or "resend"'),
        ("[services.a]\nmemory = '4 GB'", "a size such as 512M or 4G, 4 MiB at least (0: no limit)"),
        ("[services.a]\nmemory = 4", "4 MiB at least"),
        ("[services.a]\ncpu_time = -1", "a number of seconds"),
        ("[services.a]\nprocesses = 1.5", "a whole number, 2 at least"),
        ("[services.a]\nopen_files = true", "a whole number, 8 at least"),
    ],
)
def test_a_mistake_in_the_file_is_explained(toml: Any, text: str, hint: str) -> None:
    (line,) = mistakes({}, toml(text))
    assert "settings.toml" in line and hint in line


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    (line,) = mistakes({}, tmp_path / "none.toml")
    assert "none.toml" in line and "No such file" in line


def test_a_node_that_serves_several_services_is_watched_once() -> None:
    settings = load(
        {
            "SERVICE_A_NODES": "http://n:1,http://m:1",
            "SERVICE_B_UPLOAD_URL": "http://n:1/submit",
            "SERVICE_C_UPLOAD_URL": "http://n:1/submit",
        }
    )
    found = {address.url: address for address in merge_addresses(settings)}
    assert set(found) == {"http://n:1", "http://m:1"}
    assert set(found["http://n:1"].services) == {"a", "b", "c"}
    assert found["http://n:1"].upload_url == "http://n:1/submit"


def test_where_callbacks_may_go_is_read_from_the_file_and_the_environment(tmp_path: Path, toml: Any) -> None:
    config = toml(
        'callback_hosts = ["Portal.example.org", "*.jobs.example:*"]\ncallback_private = ["10.1.0.0/16"]'
    )
    for settings in (
        load({"DATA_PATH": str(tmp_path)}, config),
        load(
            {
                "DATA_PATH": str(tmp_path),
                "CALLBACK_HOSTS": "portal.example.org, *.jobs.example:*",
                "CALLBACK_PRIVATE": "10.1.0.0/16",
            }
        ),
    ):
        assert [str(rule) for rule in settings.callback_hosts] == ["portal.example.org", "*.jobs.example:*"]
        assert [str(network) for network in settings.callback_private] == ["10.1.0.0/16"]
        assert settings.callback_secret_file == tmp_path / "callback.secret"
    assert load({}).callback_hosts == ()
    assert load({"CALLBACK_SECRET_FILE": "/s/x"}).callback_secret_file == Path("/s/x")
    assert load({"CALLBACK_CA_FILE": "/s/y"}).callback_ca_file == Path("/s/y")


def test_a_callback_host_that_is_none_is_told(toml: Any) -> None:
    (hosts, private) = mistakes(
        {}, toml('callback_hosts = ["https://h/"]\ncallback_private = ["10.1.2.3/16"]')
    )
    assert "callback_hosts: ['https://h/']" in hosts and "portal.example.org" in hosts
    assert "callback_private" in private and "10.1.2.3/16 has host bits set" in private
    (wrong,) = mistakes({}, toml("callback_private = true"))
    assert "True" in wrong and "10.1.0.0/16" in wrong


def test_a_limit_of_bytes_may_have_a_unit(toml: Any) -> None:
    given = load({}, toml('upload_limit = "50M"\nresult_limit = "1.5G"\ncontract_result_limit = 1048577'))
    assert (given.upload_limit, given.result_limit) == (50 << 20, 3 << 29)
    assert given.contract_result_limit == (1 << 20) + 1
    (wrong,) = mistakes({}, toml('upload_limit = "50 MB"'))
    assert "a size such as 512M or 4G" in wrong


@pytest.mark.parametrize("bad", ["portal.example.org", "https://b.example/page", "*"])
def test_of_several_origins_the_one_that_is_none_is_named(bad: str) -> None:
    (wrong,) = mistakes({"ALLOWED_ORIGINS": f"https://a.example, {bad}, https://c.example"}, None)
    assert "ALLOWED_ORIGINS" in wrong and f"; {bad!r} " in wrong


def test_a_private_callback_host_that_is_not_allowed_to_be_is_warned_of() -> None:
    given = {"CALLBACK_HOSTS": "127.0.0.1:8080,portal.example,8.8.8.8"}
    (warning,) = (line for line in load(given).warnings if "callback" in line)
    assert "127.0.0.1:8080" in warning and "callback_private" in warning
    allowed = load({**given, "CALLBACK_PRIVATE": "127.0.0.1"}).warnings
    assert not any("callback" in line for line in allowed)


def test_by_which_names_it_is_known(toml: Any) -> None:
    given = load({"PUBLIC_URL": "https://jobs.example.org/portal/, http://jobs:5000"})
    assert given.public_url == ("https://jobs.example.org/portal", "http://jobs:5000")
    assert load({}, toml('public_url = ["http://jobs:5000"]')).public_url == ("http://jobs:5000",)
    with pytest.raises(SettingsError) as caught:
        load({"PUBLIC_URL": "jobs.example.org"})
    assert "PUBLIC_URL: 'jobs.example.org'" in str(caught.value)
    assert "https://jobs.example.org" in str(caught.value)


def test_no_more_slots_are_kept_than_the_service_may_use(toml: Any) -> None:
    settings = load({}, toml("[services.a]\nkeep_slots = 10\n[services.b]\n"))
    assert (settings.services["a"].keep_slots, settings.services["b"].keep_slots) == (10, 0)
    (mistake,) = mistakes({}, toml("[services.a]\nmax_runs = 3\nkeep_slots = 4\n"))
    assert "services.a.keep_slots: 4 slots" in mistake and "3 jobs at most (max_runs)" in mistake
    (mistake,) = mistakes({}, toml("[services.a]\nkeep_slots = -1\n"))
    assert "services.a.keep_slots" in mistake and "a whole number" in mistake


def test_what_an_upload_may_ask_of_a_cluster_is_listed(toml: Any) -> None:
    words = 'partitions = ["short", "long"]\naccounts = ["bio"]\nqos = "high"\n'
    some = f'{words}max_cpus = 16\nmax_gpus = ["a100:4"]'
    services = load({}, toml(f"[services.a]\n{some}\n[services.b]\nmax_gpus = 2\n[services.c]\n")).services
    assert services["a"].batch_allowed == BatchAllowance(
        ("short", "long"), ("bio",), ("high",), 16, ("a100:4",)
    )
    assert services["b"].batch_allowed == BatchAllowance(max_gpus=("2",))
    assert services["c"].batch_allowed == NOTHING_ALLOWED


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('partitions = ["a b"]', "a list of names of partitions"),
        ("accounts = [1]", "a list of names of accounts"),
        ("qos = true", "a list of names of qualities of service"),
        ("max_cpus = -1", "a whole number from 0 to 100000"),
        ('max_gpus = ["a100:0"]', "a number of GPUs, or a list"),
    ],
)
def test_what_cannot_be_asked_of_a_cluster_is_refused(toml: Any, line: str, expected: str) -> None:
    (mistake,) = mistakes({}, toml(f"[services.a]\n{line}\n"))
    assert f"services.a.{line.partition(' ')[0]}" in mistake and expected in mistake


def test_weights_are_by_the_number_of_a_user(toml: Any) -> None:
    settings = load({}, toml('[services.a]\nweights = { 42 = 3, "-1" = 2 }\n[services.b]\n'))
    assert settings.services["a"].weights == {42: 3, -1: 2}
    assert settings.services["b"].weights == {}


@pytest.mark.parametrize("given", ["3", "{ x = 3 }", "{ 42 = 0 }", "{ 42 = 1.5 }", "{ 42 = true }", "[42]"])
def test_what_is_no_weight_is_a_mistake(given: str, toml: Any) -> None:
    (mistake,) = mistakes({}, toml(f"[services.a]\nweights = {given}\n"))
    assert "services.a.weights" in mistake and "a table of users" in mistake


def test_a_certificate_without_its_key_is_told_with_all_else(toml: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, toml('tls_cert = "x.pem"\nmax_queued = -1\n'))
    assert len(caught.value.mistakes) == 2
    path = Path("x.pem").absolute()
    wanted = f"tls_cert: {path} is named without its key: tls_key names that file, too"
    assert wanted in caught.value.mistakes


def test_operators_whom_no_header_names_are_warned_of(toml: Any) -> None:
    told = load({}, toml('trusted_operators = ["ann"]\n')).warnings
    assert "trusted_operators: nobody is one without trusted_user_header" in told
