"""Webhooks: sends an event to a receiver when a job ends.

Runs as a separate process: a slow receiver delays neither the API nor a worker.
"""
