"""Payloads as batch jobs of a cluster."""
