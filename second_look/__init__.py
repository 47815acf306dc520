"""A heavier model looks at held images before people do: from an outbox in the store, by a Celery queue."""
