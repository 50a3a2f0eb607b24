"""The bodies of `/v1` as types, from which JSON, OpenAPI and the client come."""
