"""Processes of this machine: /proc, and the identity of a process."""
