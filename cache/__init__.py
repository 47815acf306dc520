"""The result cache: the prompt-hash key, results in Redis, and recent results in the API
process."""
