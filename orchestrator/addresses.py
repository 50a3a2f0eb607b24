"""The URLs of the contract, from what the settings say of a node."""

from __future__ import annotations

from actors.model import NodeRef
from actors.ports import NodeAddress


def base_of(address: NodeAddress) -> str:
    """Where the node's own routes begin: without the upload URL's last segment if only that is known."""
    return (address.url or _parent(address.upload_url)).rstrip("/")


def foreign_ref(address: NodeAddress) -> NodeRef:
    """A node that knows only the contract; it is identified by its address. One URL is enough: the others are
    then its neighbours."""
    base = base_of(address)
    return NodeRef(
        node_id=address.upload_url or base,
        url=base,
        foreign=True,
        upload_url=address.upload_url or f"{base}/submit",
        download_url=(address.download_url or f"{base}/retrieve").rstrip("/"),
        terminate_url=(address.terminate_url or f"{base}/kill").rstrip("/"),
    )


def partial_url(node: NodeRef) -> str:
    """Partial results: the last segment of the download URL replaced."""
    return f"{_parent(node.download_url)}/retrieve_partial"


def _parent(url: str) -> str:
    return url.rstrip("/").rpartition("/")[0]
