"""Nodes of ours, by our own protocol."""
