"""The ledger in SQLite: the truth about jobs and attempts."""
