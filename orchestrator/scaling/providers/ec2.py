"""The provider `ec2`: instances of EC2, or of any cloud that speaks its API.

What is whose is in tags: the orchestrator (`owner`), the service, the machine's token. An instance is born
with them, so there is none without. The calls are blocking ones and go into threads, each with a deadline;
none is repeated here, that is the caller's.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import trio

from actors.domain.ids import is_key
from actors.domain.scaling import Machine
from actors.ports.scaling import ProviderError
from orchestrator.config.scaling import OWNER_TAG, SERVICE_TAG, TOKEN_TAG, Ec2Settings

T = TypeVar("T")


_EXISTS: Final = ("pending", "running", "stopping", "stopped")
"""States of an instance that is not ended; a stopped one is still paid for, by its disk."""
_NOT_FOUND: Final = "InvalidInstanceID.NotFound"
_REFUSALS: Final = frozenset(
    {"RequestLimitExceeded", "Throttling", "ThrottlingException", "InsufficientInstanceCapacity"}
)
"""What says that nothing was done, although it comes with the status of a server's error."""
_CALLS: Final = 4
"""Threads that may be at it at once: a cloud that hangs takes no more of them."""


class Ec2Provider:
    """Implements `Provider` for the orchestrator that is called `owner`. `slots`: of a node, by service."""

    name = "ec2"

    def __init__(self, settings: Ec2Settings, *, slots: Mapping[str, int], join_url: str, owner: str) -> None:
        self._settings = settings
        self._slots = slots
        self._join_url = join_url
        self.owner = owner
        self._client: Any = None
        self._building = trio.Lock()
        self._limiter = trio.CapacityLimiter(_CALLS)

    async def create(self, token: str, service: str) -> Machine:
        # Not every endpoint heeds the ClientToken. Nothing has been done yet when this fails.
        for known in await self._describe({f"tag:{TOKEN_TAG}": [token]}, certain=True):
            # Nor does every one heed the filters.
            if (known.token, known.owner) == (token, self.owner):
                return known
        parameters = self._parameters(token, service)
        answer = await self._call("RunInstances", lambda client: client.run_instances(**parameters))
        instances = answer.get("Instances", [])
        if len(instances) != 1:
            raise ProviderError(f"RunInstances answered with {len(instances)} instances instead of one")
        if instances[0]["State"]["Name"] not in _EXISTS:
            # The ClientToken of a machine that has been ended: the answer is about that one.
            raise ProviderError("the machine of this token has ended already", certain=True)
        return _machine(instances[0], token, service, self.owner)

    async def list(self) -> Sequence[Machine]:
        return await self._describe({})

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        if not machine_ids:
            return
        try:
            await self._terminate(machine_ids)
        except _NotFound as error:
            if len(machine_ids) == 1:
                return
            # One that is gone makes the whole request fail.
            failed: ProviderError | None = None
            for machine_id in machine_ids:
                try:
                    await self._terminate([machine_id])
                except _NotFound:
                    continue
                except ProviderError as other:
                    failed = other
            if failed is not None:
                raise failed from error

    # ------------------------------------------------------------------ requests

    async def _terminate(self, machine_ids: Sequence[str]) -> None:
        ids = [*machine_ids]
        await self._call("TerminateInstances", lambda client: client.terminate_instances(InstanceIds=ids))

    async def _describe(
        self, filters: Mapping[str, Sequence[str]], *, certain: bool = False
    ) -> Sequence[Machine]:
        """Instances that are not ended, of all pages: those of this orchestrator that fit the filters, and
        others where the endpoint ignores these."""
        wanted = {f"tag:{OWNER_TAG}": [self.owner], "instance-state-name": [*_EXISTS], **filters}
        parameters: dict[str, Any] = {
            "Filters": [{"Name": name, "Values": [*values]} for name, values in wanted.items()],
            "MaxResults": self._settings.page,
        }
        found: dict[str, Machine] = {}
        try:
            while True:
                answer = await self._call(
                    "DescribeInstances", lambda client: client.describe_instances(**parameters)
                )
                for reservation in answer.get("Reservations", []):
                    for instance in reservation.get("Instances", []):
                        machine = _tagged(instance)
                        if machine is not None:
                            found[machine.machine_id] = machine
                if not answer.get("NextToken"):
                    return [*found.values()]
                parameters["NextToken"] = answer["NextToken"]
        except ProviderError as error:
            error.certain = error.certain or certain
            raise

    def _parameters(self, token: str, service: str) -> Mapping[str, Any]:
        settings = self._settings
        tags = {
            "Name": f"orchestrator {service}",
            **settings.tags,
            OWNER_TAG: self.owner,
            SERVICE_TAG: service,
            TOKEN_TAG: token,
        }
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        parameters: dict[str, Any] = {
            "ImageId": settings.image,
            "InstanceType": settings.instance_type,
            # What switches itself off is gone, and not merely stopped and paid for.
            "InstanceInitiatedShutdownBehavior": "terminate",
            "SubnetId": settings.subnet,
            "SecurityGroupIds": [*settings.security_groups],
            "KeyName": settings.key_name,
            **settings.options,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": token,
            "UserData": user_data(
                settings, token, service, slots=self._slots.get(service, 1), join_url=self._join_url
            ),
            "TagSpecifications": [{"ResourceType": kind, "Tags": pairs} for kind in ("instance", "volume")],
        }
        return {name: value for name, value in parameters.items() if value not in (None, [])}

    # ------------------------------------------------------------------ calls

    async def _call(self, what: str, work: Callable[[Any], T]) -> T:
        """One request, in a thread. Raises ProviderError; `_NotFound` for an instance that is unknown."""
        deadline = self._settings.deadline
        try:
            with trio.fail_after(deadline):
                client = await self._built()
                return await self._in_thread(lambda: _ask(what, lambda: work(client)))
        except trio.TooSlowError as error:
            # The thread is left to itself; it ends with the timeouts of its sockets.
            raise ProviderError(f"{what} was not answered within {deadline:g} s") from error

    async def _built(self) -> Any:
        async with self._building:
            if self._client is None:
                # Reads a model of 200 operations and looks for credentials, perhaps over the network.
                self._client = await self._in_thread(lambda: _ask("boto3", lambda: _client(self._settings)))
        return self._client

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)


class _NotFound(ProviderError):
    """The API knows no such instance."""


def _client(settings: Ec2Settings) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=min(5.0, settings.deadline),
        read_timeout=settings.deadline,
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    return Session().client(
        "ec2", region_name=settings.region, endpoint_url=settings.endpoint_url, config=config
    )


def _ask(what: str, work: Callable[[], T]) -> T:
    """In the thread: botocore's errors as ours."""
    from botocore import exceptions

    try:
        return work()
    except exceptions.ClientError as error:
        told = error.response.get("Error", {})
        code, message = told.get("Code", "?"), told.get("Message", "")
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        kind = _NotFound if code == _NOT_FOUND else ProviderError
        # Refused is refused. An error of the server's may come after it has done its part.
        certain = 400 <= status < 500 or code in _REFUSALS
        raise kind(f"{what}: {code}: {message}", certain=certain) from error
    except (
        exceptions.ConnectTimeoutError,
        exceptions.EndpointConnectionError,
        exceptions.NoCredentialsError,
    ) as error:
        raise ProviderError(f"{what}: {error}", certain=True) from error
    except (exceptions.BotoCoreError, OSError, ValueError) as error:
        raise ProviderError(f"{what}: {error}") from error


def _tagged(instance: Mapping[str, Any]) -> Machine | None:
    """An instance as its own tags tell it; None if it is ended, or has no token of any orchestrator's."""
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    token = tags.get(TOKEN_TAG, "")
    if instance["State"]["Name"] not in _EXISTS or not is_key(token):
        return None
    return _machine(instance, token, tags.get(SERVICE_TAG, ""), tags.get(OWNER_TAG, ""))


def _machine(instance: Mapping[str, Any], token: str, service: str, owner: str) -> Machine:
    # A new instance may have no address yet, or none at all.
    address = instance.get("PrivateIpAddress") or instance.get("PublicIpAddress") or None
    running = instance["State"]["Name"] in ("pending", "running")
    return Machine(instance["InstanceId"], token, service, running=running, address=address, owner=owner)


def user_data(settings: Ec2Settings, token: str, service: str, *, slots: int, join_url: str) -> str:
    """What an instance runs when it boots: its node, which joins with the token. systemd, where there is one,
    starts it again when it crashes."""
    options = ["--host", "0.0.0.0", "--port", str(settings.node_port), "--slots", str(slots)]
    options += ["--data", "/var/lib/orchestrator-node", "--on-stop", "kill"]
    options += ["--join", join_url, "--join-services", service, "--machine", token]
    return f"""#!/bin/sh
{settings.setup}
set -- {settings.node_command} {shlex.join(options)}
if command -v systemd-run >/dev/null; then
    exec systemd-run --unit orchestrator-node --setenv "PATH=$PATH" \\
        --property Restart=always --property RestartSec=2 "$@"
fi
exec "$@"
"""
