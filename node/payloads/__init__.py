"""The table of payloads, its records on disk, and recovering it after a restart."""
