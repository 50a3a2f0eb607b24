"""Copies of a whole orchestrator: made while it runs, put back elsewhere, and held against its disk."""
