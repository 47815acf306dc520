"""Capacity for N users, by simulating a day of them on the platform's own scheduler. `python -m benchmarks.plan`."""
