"""The queue: topology, publishing, and the relay that publishes what was left behind."""
