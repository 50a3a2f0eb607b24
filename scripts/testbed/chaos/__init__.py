"""A chaos run: machines that are killed, networks that are cut, and jobs that must not mind."""
