"""The providers that the settings name, built."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from actors.ports.scaling import Provider
from orchestrator.config.scaling import (
    CommandSettings,
    Ec2Settings,
    MachineSettings,
    ScalingConfig,
    SlurmSettings,
)
from orchestrator.scaling.providers.command import CommandProvider
from orchestrator.scaling.providers.ec2 import Ec2Provider
from orchestrator.scaling.providers.local import LocalProvider, joining
from orchestrator.scaling.providers.slurm import SlurmProvider

MACHINES: Final = "machines"
"""Where in the data directory the provider `local` keeps its machines."""
SCRIPTS: Final = "allocations"
"""Where in the data directory the provider `slurm` has its scripts while they are handed over."""


def build_providers(
    configs: Mapping[str, ScalingConfig],
    *,
    data: Path,
    owner: str,
    here: Callable[[], Awaitable[str]],
    join_url: str,
    node_token: str | None = None,
    ca_file: Path | None = None,
) -> Mapping[str, Provider]:
    """The provider of each service in `configs`. Services whose machines come from the same place share one:
    each provider tells the machines of all services.

    `owner` is the ledger's, and marks what is ours. `here` waits until the server listens and tells the URL
    by which nodes of this machine reach it, and join by `node_token`; `join_url` is the one for other
    machines, which the settings make sure of where it is needed.
    """
    slots = {service: config.limits.slots_per_node for service, config in configs.items()}
    idle = {service: config.limits.idle_timeout for service, config in configs.items()}
    built: list[tuple[MachineSettings | None, Provider]] = []
    providers: dict[str, Provider] = {}
    for service, config in configs.items():
        # Compared and not looked up: what has tables in it cannot be hashed.
        known = [provider for machines, provider in built if machines == config.machines]
        if known:
            providers[service] = known[0]
            continue
        provider: Provider
        if config.machines is None:
            provider = LocalProvider(
                data / MACHINES,
                slots=slots,
                join_url=here,
                owner=owner,
                joining=partial(joining, ca_file=ca_file),
                node_token=node_token,
            )
        else:
            assert join_url, "the settings refuse to do without"
            match config.machines:
                case CommandSettings():
                    provider = CommandProvider(config.machines, slots=slots, join_url=join_url, owner=owner)
                case Ec2Settings():
                    provider = Ec2Provider(config.machines, slots=slots, join_url=join_url, owner=owner)
                case SlurmSettings():
                    provider = SlurmProvider(
                        config.machines,
                        slots=slots,
                        idle=idle,
                        join_url=join_url,
                        owner=owner,
                        scripts=data / SCRIPTS,
                    )
        built.append((config.machines, provider))
        providers[service] = provider
    return providers
