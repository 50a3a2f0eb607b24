"""Numbers for Prometheus: what both sides count alike."""
