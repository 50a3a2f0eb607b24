"""The compute node: takes payloads over HTTP, runs them, keeps their results until they are fetched."""
