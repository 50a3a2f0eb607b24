"""Telling routes of changes: waiters for one job, and the stream of all."""
