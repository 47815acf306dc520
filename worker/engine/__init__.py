"""The engine: the process that owns the device, and the host, which starts it, sends it work and kills it."""
