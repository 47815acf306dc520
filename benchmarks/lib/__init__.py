"""What benchmarks share: a platform, load, arrivals, cores, orders, ratios, plots. Tests start their platforms here too."""
