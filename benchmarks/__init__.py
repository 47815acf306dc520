"""Scripts that measure, each with one language of figures: see `benchmarks.report`. What they share is in `benchmarks.lib`."""
