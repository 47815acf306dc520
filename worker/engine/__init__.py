"""The engine: the process that owns the device, and the host that starts, feeds and kills it."""
