"""The load test: an open-loop generator, what it measures, and its report. `python -m benchmarks.load`."""
