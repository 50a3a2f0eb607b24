"""What the simulation and the benchmarks share: a real cluster on loopback, and a portal's side of it."""
