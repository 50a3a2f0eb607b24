"""Talking to nodes, and knowing which there are."""
