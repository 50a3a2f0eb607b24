"""Reading settings: the kinds of values, and tables of keys from environment, file and flags."""
