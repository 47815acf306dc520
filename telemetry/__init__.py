"""Structured logs and every metric's name, once."""
