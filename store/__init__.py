"""Job records, leases, quotas, API keys, idempotency, webhook duties, events and the model
directory, in Redis."""
