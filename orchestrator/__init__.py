"""The server: queue, quotas, nodes, storage, HTTP API, and the command line."""
