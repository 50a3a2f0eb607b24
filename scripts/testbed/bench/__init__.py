"""The benchmarks of scripts/bench.py, by their subjects. Each takes its baselines in the same run."""
