"""Jobs that try what no job should be able to do, and what became of it."""
