"""One file a table: its DDL, its value, reading and writing it."""
