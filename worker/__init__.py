"""A Celery consumer and a batcher in one process; the engine that owns the device in a child."""
