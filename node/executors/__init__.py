"""Ways to run a payload on this machine, and the port they share (`executor.Executor`)."""
