"""Work that a job's end owes and that nobody waits for: from an outbox in the store, by a Celery queue, to a process of its own."""
