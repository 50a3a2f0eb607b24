"""How commands write to a terminal, and read what they are given."""
