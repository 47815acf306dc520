"""Brings pictures from a folder, a bucket or a list of addresses to a server. `run` shows all parts at work."""
