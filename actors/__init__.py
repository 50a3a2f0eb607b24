"""The actor system, the actors, and what both sides of the wire stand on."""
