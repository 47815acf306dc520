"""A good client beside thousands of bad connections and a greedy tenant. `python -m benchmarks.neighbours`."""
