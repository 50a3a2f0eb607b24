"""One run of a payload: its directories, environment, script, progress and manifest."""
