"""Every metric's name, once. Labels never carry prompts or ids, and tenants only of the few that `telemetry.tenants` picks.

Names follow https://prometheus.io/docs/practices/naming/: base units, the unit as suffix, `_total` for counters. What the chart's
dashboards and alerts ask for must be here; `tests/helm` holds them to it.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

BUILD = Gauge("darkroom_build_info", "1, labelled with what runs.", ["service", "version"])

# The door (api)
HTTP_REQUESTS = Counter("darkroom_http_requests_total", "Requests answered.", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "darkroom_http_request_seconds",
    "From first byte to answer, waits included.",
    ["method", "route"],
    buckets=_LATENCY_S,
)
JOBS_SUBMITTED = Counter(
    "darkroom_jobs_submitted_total", "Jobs accepted, by how the cache took them.", ["model", "cache"]
)
STEPS_SUBMITTED = Counter(
    "darkroom_steps_submitted_total",
    "Denoising steps of all images of the jobs that were accepted to be computed.",
    ["model"],
)
JOBS_REFUSED = Counter("darkroom_jobs_refused_total", "Jobs refused, by error code.", ["code"])
QUOTA_REFUSED = Counter(
    "darkroom_quota_refused_total", "Jobs refused for a limit of their API key, by limit.", ["limit"]
)
TENANT_JOBS = Counter(
    "darkroom_tenant_jobs_total", "Jobs accepted, of the tenants that load the platform most.", ["tenant"]
)
TENANT_STEPS = Counter(
    "darkroom_tenant_steps_total",
    "Denoising steps of all images of their jobs that were accepted to be computed.",
    ["tenant"],
)
TENANT_REFUSED = Counter("darkroom_tenant_refused_total", "Their jobs that were refused.", ["tenant"])
JOBS_WAITING = Gauge("darkroom_jobs_waiting", "Jobs that wait for a worker, as of the scrape.", ["model"])
PREDICTED_WAIT = Gauge(
    "darkroom_predicted_wait_seconds",
    "When one more image would be done, as of the scrape; absent while no worker tells its rate.",
    ["model"],
)
LIVE_WORKERS = Gauge("darkroom_live_workers", "Workers announced, as of the scrape.", ["model"])
MODEL_RATE = Gauge(
    "darkroom_model_steps_per_second",
    "Denoising steps that a model's workers do under load, together.",
    ["model"],
)
STORE_MEMORY = Gauge(
    "darkroom_store_memory_bytes",
    "Memory that the state Redis has used of its maxmemory; of a cluster, the fullest node. Told by API processes.",
)
STORE_MEMORY_LIMIT = Gauge(
    "darkroom_store_memory_limit_bytes",
    "The maxmemory of the state Redis; 0: it has none, or it is not known now.",
)
BLOB_DISK = Gauge(
    "darkroom_blob_disk_bytes", "Size of the disk that the pictures lie on; 0: they lie on none of ours."
)
BLOB_DISK_FREE = Gauge("darkroom_blob_disk_free_bytes", "What is free of it.")
WAITERS = Gauge("darkroom_waiters", "Requests now held by Prefer: wait.")
EVENT_STREAMS = Gauge("darkroom_event_streams", "Streams of job events now open.")
READS_REFUSED = Counter(
    "darkroom_reads_refused_total",
    "Reads, waits and streams refused to one key or address, by limit.",
    ["limit"],
)
CONNECTIONS_REFUSED = Counter(
    "darkroom_connections_refused_total", "Connections closed because their address has too many."
)

# The queue (broker)
PUBLISHES = Counter("darkroom_publishes_total", "Messages sent to the broker, by outcome.", ["outcome"])
PUBLISH_SECONDS = Histogram("darkroom_publish_seconds", "A confirmed publish.", buckets=_LATENCY_S)
RELAYED = Counter("darkroom_relayed_total", "Messages published by the relay, by reason.", ["reason"])

DEAD_LETTERS = Counter(
    "darkroom_dead_letters_total", "Messages that the broker gave up on, by what became of them.", ["outcome"]
)
BLOB_STORE_ERRORS = Counter(
    "darkroom_blob_store_errors_total",
    "Failed calls of the store of pictures: full, or away for another cause.",
    ["cause"],
)
BLOBS_PRUNED = Counter("darkroom_blobs_pruned_total", "Pictures deleted by age or size.")

# The darkroom itself (worker)
QUEUE_SECONDS = Histogram(
    "darkroom_queue_wait_seconds", "From submit to a worker's claim.", ["model"], buckets=_LATENCY_S
)
ATTEMPTS = Counter("darkroom_attempts_total", "Attempts begun, by their number.", ["model", "attempt"])
JOBS_FINISHED = Counter("darkroom_jobs_finished_total", "Jobs ended by a worker.", ["model", "status"])
JOB_SECONDS = Histogram(
    "darkroom_job_seconds", "From submit to terminal, computed jobs.", ["model"], buckets=_LATENCY_S
)
BATCHES = Counter("darkroom_batches_total", "Batches run, by outcome.", ["model", "outcome"])
BATCH_SIZE = Histogram(
    "darkroom_batch_images", "Images in a batch.", ["model"], buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
)
BATCH_SECONDS = Histogram(
    "darkroom_batch_seconds", "A pass on the device: one step of its images.", ["model"], buckets=_LATENCY_S
)
STEPS = Counter("darkroom_steps_total", "Denoising steps done, of all images.", ["model"])
IMAGES = Counter("darkroom_images_total", "Images drawn, encoded and stored.", ["model"])
ENCODE_SECONDS = Histogram("darkroom_encode_seconds", "Encoding one image.", buckets=_LATENCY_S)
STORE_SECONDS = Histogram("darkroom_blob_store_seconds", "Storing one image.", buckets=_LATENCY_S)
DEVICE_MEMORY = Gauge(
    "darkroom_device_memory_bytes", "Memory of the device that is in use, after a batch.", ["model", "device"]
)
DEVICE_MEMORY_LIMIT = Gauge(
    "darkroom_device_memory_limit_bytes", "Memory that the device has for the engine.", ["model", "device"]
)
ENGINE_INFO = Gauge(
    "darkroom_engine_info", "1: the engine as it was loaded.", ["model", "device", "dtype", "attention"]
)
ENGINE_RESTARTS = Counter(
    "darkroom_engine_restarts_total", "Engine processes replaced, by cause.", ["model", "cause"]
)
ENGINE_LOAD_FAILURES = Counter(
    "darkroom_engine_load_failures_total",
    "Engine processes that did not load their model: `unloadable` they said so, `died` without a word, `timeout`.",
    ["model", "cause"],
)
MESSAGES_REFUSED = Counter(
    "darkroom_messages_refused_total", "Messages that are no jobs, or of another version: dead-lettered."
)
IN_FLIGHT = Gauge("darkroom_worker_jobs", "Jobs a worker now holds.", ["model"])

# Webhooks
WEBHOOKS = Counter("darkroom_webhooks_total", "Attempts at webhooks, by outcome.", ["outcome"])
WEBHOOK_SECONDS = Histogram("darkroom_webhook_seconds", "One call of a receiver.", buckets=_LATENCY_S)
WEBHOOKS_DUE = Gauge("darkroom_webhooks_due", "Webhooks that are due and not on the queue.")

RECORDS_UNREADABLE = Counter(
    "darkroom_records_unreadable_total",
    "Documents of another version that could not be read, and were left to a process that can, by kind.",
    ["kind"],
)

# Errors whose harm is repaired elsewhere, so they are counted rather than raised
REPAIRED = Counter(
    "darkroom_repaired_errors_total", "Failed steps that a retry, a sweep or a lease makes good.", ["step"]
)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count and time a request."""
    requests, times = _answers(method, route, status)
    requests.inc()
    times.observe(seconds)


def submitted(model: str, cache: str, steps: int) -> None:
    """Count an accepted job; `steps` denoising steps are to be done for it."""
    _submits(model, cache).inc()
    if steps:
        _steps_submitted(model).inc(steps)


@lru_cache(maxsize=1024)
def _submits(model: str, cache: str) -> Counter:
    return JOBS_SUBMITTED.labels(model, cache)


@lru_cache(maxsize=1024)
def _steps_submitted(model: str) -> Counter:
    return STEPS_SUBMITTED.labels(model)


@lru_cache(maxsize=1024)
def _answers(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    # Looked up once: that costs more than to count.
    return HTTP_REQUESTS.labels(method, route, str(status)), HTTP_SECONDS.labels(method, route)
