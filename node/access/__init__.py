"""Who may order this node about."""
