"""The worker: a Celery consumer and a batcher in one process, and the engine in a child process."""

import os

# Read when numpy is loaded. Encoders and moderation have threads of their own, and the engine has the other cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
