"""Whose turn it is, which node gets it, and what is paused."""
