"""The worker: a Celery consumer and batcher, and a child process that runs the model on the device."""

import os

# Read when numpy is loaded. Encoders and moderation have threads of their own, and the engine has the other cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
