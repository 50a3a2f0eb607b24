"""Callbacks over HTTP: where they may go, what signs them, sending one."""
