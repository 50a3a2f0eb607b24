"""Frozen values and pure rules: jobs, attempts, payloads, nodes, services, and the table of states."""
