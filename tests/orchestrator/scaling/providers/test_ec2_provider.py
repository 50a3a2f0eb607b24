"""The provider `ec2` against an EC2 on loopback (moto), and a stub for what that one never does."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import pytest
import trio
from boto3.session import Session
from moto.server import ThreadedMotoServer
from support.peers.ec2_stub import Answer, ec2_stub, error, instance, reservations, started

from actors.domain.scaling import Machine
from actors.ports.scaling import ProviderError
from orchestrator.config.scaling import OWNER_TAG, SERVICE_TAG, TOKEN_TAG, Ec2Settings
from orchestrator.scaling.providers.ec2 import Ec2Provider, user_data

TOKENS: Final = [f"{number:032x}" for number in range(20)]
OWNER: Final = "ab" * 16
IMAGE: Final = "ami-03cf127a"  # one that moto knows
JOIN: Final = "http://10.0.0.1:5000"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("boto3.session.Session", _session)


@cache
def _session() -> Session:
    """One for all clients: each would read the model of EC2 anew, which takes most of a test's time."""
    return Session()


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def api(cloud: str) -> Iterator[Any]:
    """A client of the test's own, onto a cloud without instances."""
    client = _session().client("ec2", region_name="us-east-1", endpoint_url=cloud)
    yield client
    for reservation in client.describe_instances()["Reservations"]:
        client.terminate_instances(InstanceIds=[one["InstanceId"] for one in reservation["Instances"]])
    client.close()


def provider(url: str, owner: str = OWNER, **more: Any) -> Ec2Provider:
    settings: dict[str, Any] = {"image": IMAGE, "instance_type": "t3.small", "region": "us-east-1", **more}
    slots = {"example": 3}
    return Ec2Provider(Ec2Settings(endpoint_url=url, **settings), slots=slots, join_url=JOIN, owner=owner)


def tokens(machines: Any) -> list[str]:
    return sorted(machine.token for machine in machines)


# ---------------------------------------------------------------------- moto


async def test_machines_are_made_told_and_ended(cloud: str, api: Any) -> None:
    ec2 = provider(cloud)
    first = await ec2.create(TOKENS[1], "example")
    second = await ec2.create(TOKENS[2], "another")
    assert (first.token, first.service, first.running) == (TOKENS[1], "example", True)
    listed = {machine.machine_id: machine for machine in await ec2.list()}
    assert set(listed) == {first.machine_id, second.machine_id}
    assert listed[second.machine_id].service == "another"
    await ec2.terminate([first.machine_id])
    assert tokens(await ec2.list()) == [TOKENS[2]]
    await ec2.terminate([first.machine_id, second.machine_id])
    assert await ec2.list() == []
    await ec2.terminate([])


async def test_the_same_token_again_is_the_same_machine(cloud: str, api: Any) -> None:
    ec2 = provider(cloud)
    first = await ec2.create(TOKENS[1], "example")
    again = await ec2.create(TOKENS[1], "example")
    after_a_restart = await provider(cloud).create(TOKENS[1], "example")
    assert first.machine_id == again.machine_id == after_a_restart.machine_id
    assert len(await ec2.list()) == 1


async def test_an_instance_is_tagged_and_told_what_to_run(cloud: str, api: Any) -> None:
    ec2 = provider(cloud, tags={"team": "astro"}, setup="mount /scratch", key_name=None)
    machine = await ec2.create(TOKENS[1], "example")
    (reservation,) = api.describe_instances(InstanceIds=[machine.machine_id])["Reservations"]
    (made,) = reservation["Instances"]
    tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    assert tags == {
        "Name": "orchestrator example",
        "team": "astro",
        OWNER_TAG: OWNER,
        SERVICE_TAG: "example",
        TOKEN_TAG: TOKENS[1],
    }
    assert (made["InstanceType"], made["ClientToken"]) == ("t3.small", TOKENS[1])
    answer = api.describe_instance_attribute(InstanceId=machine.machine_id, Attribute="userData")
    told = base64.b64decode(answer["UserData"]["Value"]).decode()
    assert told.startswith("#!/bin/sh\nmount /scratch\n")
    assert f"--slots 3 --data /var/lib/orchestrator-node --on-stop kill --join {JOIN}" in told
    assert f"--join-services example --machine {TOKENS[1]}\n" in told


async def test_machines_of_others_are_never_told(cloud: str, api: Any) -> None:
    ours, theirs = provider(cloud), provider(cloud, owner="cd" * 16)
    await ours.create(TOKENS[1], "example")
    other = await theirs.create(TOKENS[1], "example")
    for tags in ({}, {OWNER_TAG: OWNER}, {SERVICE_TAG: "example", TOKEN_TAG: TOKENS[2]}):
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        specification = [{"ResourceType": "instance", "Tags": pairs}] if pairs else []
        api.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, TagSpecifications=specification)
    assert [(one.token, one.owner) for one in await ours.list() if one.service] == [(TOKENS[1], OWNER)]
    assert other.machine_id not in {machine.machine_id for machine in await ours.list()}
    assert [machine.machine_id for machine in await theirs.list()] == [other.machine_id]


async def test_every_page_of_a_long_list_is_read(cloud: str, api: Any) -> None:
    ec2 = provider(cloud, page=5)
    async with trio.open_nursery() as nursery:
        for token in TOKENS[:12]:
            nursery.start_soon(ec2.create, token, "example")
    assert tokens(await ec2.list()) == TOKENS[:12]


async def test_ending_what_is_gone_already_is_fine_and_ends_the_others(cloud: str, api: Any) -> None:
    ec2 = provider(cloud)
    machine = await ec2.create(TOKENS[1], "example")
    await ec2.terminate(["i-0123456789abcdef0"])
    await ec2.terminate(["i-0123456789abcdef0", machine.machine_id, "i-0123456789abcdef1"])
    assert await ec2.list() == []
    await ec2.terminate([machine.machine_id])


async def test_a_stopped_machine_is_told_as_not_running(cloud: str, api: Any) -> None:
    ec2 = provider(cloud)
    machine = await ec2.create(TOKENS[1], "example")
    api.stop_instances(InstanceIds=[machine.machine_id])
    assert [one.running for one in await ec2.list()] == [False]


async def test_a_refused_request_is_certain_to_have_done_nothing(cloud: str, api: Any) -> None:
    with pytest.raises(ProviderError, match="RunInstances: InvalidSubnetID") as caught:
        await provider(cloud, subnet="subnet-0123456789abcdef0").create(TOKENS[1], "example")
    assert caught.value.certain
    assert await provider(cloud).list() == []


# ---------------------------------------------------------------------- what moto never does


def tags_of(token: str) -> Mapping[str, str]:
    return {OWNER_TAG: OWNER, SERVICE_TAG: "example", TOKEN_TAG: token}


async def test_throttling_is_told_and_not_repeated_here_and_passes() -> None:
    throttled = [True]

    def answer(asked: Mapping[str, str]) -> Answer:
        if throttled[0]:
            return error(503, "RequestLimitExceeded", "Request limit exceeded.")
        return reservations(instance("i-1", "pending", tags_of(TOKENS[1])))

    with ec2_stub(answer) as stub:
        ec2 = provider(stub.url)
        for call in (ec2.list(), ec2.create(TOKENS[1], "example"), ec2.terminate(["i-1"])):
            with pytest.raises(ProviderError, match="RequestLimitExceeded") as caught:
                await call
            assert caught.value.certain
        assert stub.actions() == ["DescribeInstances", "DescribeInstances", "TerminateInstances"]
        throttled[0] = False
        assert await ec2.list() == [Machine("i-1", TOKENS[1], "example", running=True, owner=OWNER)]


async def test_a_request_whose_answer_is_lost_is_repeated_under_the_same_token() -> None:
    with ec2_stub(lambda asked: None if asked["Action"] == "RunInstances" else reservations()) as stub:
        ec2 = provider(stub.url, deadline=8.0)
        with pytest.raises(ProviderError) as caught:
            await ec2.create(TOKENS[1], "example")
        assert not caught.value.certain, "it may have started one"
        stub.answer = lambda asked: (
            started(instance("i-1", "pending", tags_of(TOKENS[1])))
            if asked["Action"] == "RunInstances"
            else reservations()
        )
        assert (await ec2.create(TOKENS[1], "example")).machine_id == "i-1"
        runs = [asked for asked in stub.asked if asked["Action"] == "RunInstances"]
        assert [asked["ClientToken"] for asked in runs] == [TOKENS[1]] * 2
        assert runs[0]["MaxCount"] == runs[0]["MinCount"] == "1"


async def test_an_error_of_the_servers_leaves_open_whether_it_was_done() -> None:
    with ec2_stub(
        lambda asked: error(500, "InternalError") if asked["Action"] == "RunInstances" else reservations()
    ) as stub:
        with pytest.raises(ProviderError, match="InternalError") as caught:
            await provider(stub.url).create(TOKENS[1], "example")
        assert not caught.value.certain


async def test_a_look_that_fails_before_a_request_leaves_nothing_open() -> None:
    with ec2_stub(lambda asked: error(500, "InternalError")) as stub:
        with pytest.raises(ProviderError) as caught:
            await provider(stub.url).create(TOKENS[1], "example")
        assert caught.value.certain
        assert stub.actions() == ["DescribeInstances"]


async def test_the_token_of_an_ended_machine_makes_no_machine() -> None:
    def answer(asked: Mapping[str, str]) -> Answer:
        if asked["Action"] == "RunInstances":
            return started(instance("i-1", "terminated", tags_of(TOKENS[1])))
        return reservations()

    with ec2_stub(answer) as stub, pytest.raises(ProviderError, match="has ended already"):
        await provider(stub.url).create(TOKENS[1], "example")


async def test_an_endpoint_that_does_not_filter_makes_no_machine_ours() -> None:
    foreign = {**tags_of(TOKENS[2]), OWNER_TAG: "somebody else"}
    instances = (
        instance("i-1", "running", foreign),
        instance("i-2", "terminated", tags_of(TOKENS[3])),
        instance("i-3", "running", {}),
        instance("i-4", "running", tags_of("no token")),
        instance("i-5", "running", tags_of(TOKENS[5])),
    )
    with ec2_stub(lambda asked: reservations(*instances)) as stub:
        told = await provider(stub.url).list()
        assert [(one.machine_id, one.owner) for one in told] == [("i-1", "somebody else"), ("i-5", OWNER)]


async def test_another_token_s_machine_is_not_taken_for_what_was_asked_for() -> None:
    def answer(asked: Mapping[str, str]) -> Answer:
        if asked["Action"] == "RunInstances":
            return started(instance("i-2", "pending", tags_of(TOKENS[2])))
        return reservations(instance("i-1", "running", tags_of(TOKENS[1])))

    with ec2_stub(answer) as stub:
        assert (await provider(stub.url).create(TOKENS[2], "example")).machine_id == "i-2"


async def test_an_endpoint_that_is_not_there_is_told_in_time() -> None:
    with ec2_stub(lambda asked: None) as stub:
        nobody = stub.url
    with pytest.raises(ProviderError) as caught:
        await provider(nobody).create(TOKENS[1], "example")
    assert caught.value.certain


async def test_a_client_is_built_once_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = Session.client

    def counting(self: Session, *arguments: Any, **more: Any) -> Any:
        built.append("client")
        return real(self, *arguments, **more)

    monkeypatch.setattr(Session, "client", counting)
    with ec2_stub(lambda asked: reservations()) as stub:
        ec2 = provider(stub.url)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ec2.list)
    assert built == ["client"]


def test_what_an_instance_runs_quotes_what_it_is_given() -> None:
    settings = Ec2Settings(IMAGE, "t3.small", node_command="sudo -u jobs orchestrator node", node_port=9001)
    told = user_data(settings, TOKENS[1], "example", slots=2, join_url="http://h/?a=1&b=$(reboot)")
    assert "set -- sudo -u jobs orchestrator node --host 0.0.0.0 --port 9001" in told
    assert "--join 'http://h/?a=1&b=$(reboot)' " in told
