"""What is said of a connection that does not come about."""

from __future__ import annotations

from node.host.connecting import describe_error


def test_a_proxy_is_named_where_there_is_one() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    assert describe_error(refused) == "Connection refused"
    assert describe_error(refused, proxied=True) == "through the proxy: Connection refused"
