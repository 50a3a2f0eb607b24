"""The URLs of the contract, from what the settings say of a node."""

from __future__ import annotations

from dataclasses import replace

from actors.domain.node import NodeAddress, NodeRef
from orchestrator.config.settings import Settings


def base_of(address: NodeAddress) -> str:
    """Where the node's own routes begin: without the upload URL's last segment if only that is known."""
    return (address.url or _parent(address.upload_url)).rstrip("/")


def contract_only_ref(address: NodeAddress) -> NodeRef:
    """A node that knows only the contract; it is identified by its address. One URL is enough: the others are
    then its neighbours."""
    base = base_of(address)
    return NodeRef(
        node_id=address.upload_url or base,
        url=base,
        contract_only=True,
        upload_url=address.upload_url or f"{base}/submit",
        download_url=(address.download_url or f"{base}/retrieve").rstrip("/"),
        terminate_url=(address.terminate_url or f"{base}/kill").rstrip("/"),
    )


def partial_url(node: NodeRef) -> str:
    """Partial results: the last segment of the download URL replaced."""
    return f"{_parent(node.download_url)}/retrieve_partial"


def _parent(url: str) -> str:
    return url.rstrip("/").rpartition("/")[0]


def merge_addresses(settings: Settings) -> tuple[NodeAddress, ...]:
    """Every node's address once, with all services that name it. One that is given by its base URL and by
    the contract's URLs too is one node."""
    merged: dict[tuple[str, str], NodeAddress] = {}
    for limits in settings.services.values():
        for address in limits.addresses:
            key = (address.url, address.upload_url)
            services = merged[key].services if key in merged else ()
            merged[key] = replace(address, services=tuple(dict.fromkeys((*services, *address.services))))
    for (url, upload_url), address in list(merged.items()):
        others = [key for key in merged if key[0] == url and key[1]]
        if not upload_url and others:
            other = merged[others[0]]
            services = tuple(dict.fromkeys((*other.services, *address.services)))
            merged[others[0]] = replace(other, services=services)
            del merged[url, upload_url]
    return tuple(merged.values())
