"""The worker: a Celery consumer and a batcher in one process, and the engine in a child process."""
