"""All metrics of the platform. Labels never hold prompts or ids; tenants only where `telemetry.tenants` picks them.

Names follow https://prometheus.io/docs/practices/naming/: base units, the unit as suffix, `_total` for
counters. Every metric in the chart's dashboards and alerts must be defined here; `tests/helm` checks this.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

BUILD = Gauge(
    "darkroom_build_info", "Always 1; the labels name the service and its version.", ["service", "version"]
)

# API
HTTP_REQUESTS = Counter(
    "darkroom_http_requests_total", "HTTP requests answered.", ["method", "route", "status"]
)
HTTP_SECONDS = Histogram(
    "darkroom_http_request_seconds",
    "Time from the first byte of a request to its answer, including waits.",
    ["method", "route"],
    buckets=_LATENCY_S,
)
JOBS_SUBMITTED = Counter(
    "darkroom_jobs_submitted_total",
    "Jobs accepted, by cache status: hit, miss or joined.",
    ["model", "cache"],
)
STEPS_SUBMITTED = Counter(
    "darkroom_steps_submitted_total",
    "Denoising steps of all images of accepted jobs that must be computed.",
    ["model"],
)
JOBS_REFUSED = Counter("darkroom_jobs_refused_total", "Jobs refused, by error code.", ["code"])
QUOTA_REFUSED = Counter(
    "darkroom_quota_refused_total", "Jobs refused by a limit of their API key, by limit.", ["limit"]
)
TENANT_JOBS = Counter(
    "darkroom_tenant_jobs_total", "Jobs accepted, for the tenants with the most load.", ["tenant"]
)
TENANT_STEPS = Counter(
    "darkroom_tenant_steps_total",
    "Denoising steps of all images of accepted jobs that must be computed, for the tenants with the most load.",
    ["tenant"],
)
TENANT_REFUSED = Counter(
    "darkroom_tenant_refused_total", "Jobs refused, for the tenants with the most load.", ["tenant"]
)
JOBS_WAITING = Gauge("darkroom_jobs_waiting", "Jobs that wait for a worker, at the scrape.", ["model"])
PREDICTED_WAIT = Gauge(
    "darkroom_predicted_wait_seconds",
    "Predicted time until one more image would be done, at the scrape; absent while no worker reports its rate.",
    ["model"],
)
LIVE_WORKERS = Gauge("darkroom_live_workers", "Live workers, at the scrape.", ["model"])
MODEL_RATE = Gauge(
    "darkroom_model_steps_per_second",
    "Denoising steps per second of all of a model's workers under load.",
    ["model"],
)
STORE_MEMORY = Gauge(
    "darkroom_store_memory_bytes",
    "Memory used by the state Redis; in a cluster, by its fullest node. Reported by API processes.",
)
STORE_MEMORY_LIMIT = Gauge(
    "darkroom_store_memory_limit_bytes",
    "The maxmemory of the state Redis; 0: no limit, or unknown.",
)
BLOB_DISK = Gauge(
    "darkroom_blob_disk_bytes",
    "Bytes of the disk that holds the images, without those kept back for root; 0: they are on no local disk.",
)
BLOB_DISK_FREE = Gauge("darkroom_blob_disk_free_bytes", "Free bytes on the disk that holds the images.")
WAITERS = Gauge("darkroom_waiters", "Requests that wait for a job to end (Prefer: wait).")
EVENT_STREAMS = Gauge("darkroom_event_streams", "Open streams of job events.")
READS_REFUSED = Counter(
    "darkroom_reads_refused_total",
    "Reads, waits and event streams refused to one key or address, by limit.",
    ["limit"],
)
CONNECTIONS_REFUSED = Counter(
    "darkroom_connections_refused_total", "Connections closed because their address had too many."
)

# Broker
PUBLISHES = Counter("darkroom_publishes_total", "Messages sent to the broker, by outcome.", ["outcome"])
PUBLISH_SECONDS = Histogram(
    "darkroom_publish_seconds", "Duration of a publish, confirm included.", buckets=_LATENCY_S
)
RELAYED = Counter("darkroom_relayed_total", "Messages published from the outbox, by reason.", ["reason"])

DEAD_LETTERS = Counter(
    "darkroom_dead_letters_total", "Messages that the broker gave up on, by outcome.", ["outcome"]
)
BLOB_STORE_ERRORS = Counter(
    "darkroom_blob_store_errors_total",
    "Failed calls of the blob store, by cause: full or unavailable.",
    ["cause"],
)
BLOBS_PRUNED = Counter(
    "darkroom_blobs_pruned_total", "Images deleted because of their age or the total size."
)

# Worker
QUEUE_SECONDS = Histogram(
    "darkroom_queue_wait_seconds", "Time from submit to a worker's claim.", ["model"], buckets=_LATENCY_S
)
ATTEMPTS = Counter("darkroom_attempts_total", "Attempts started, by attempt number.", ["model", "attempt"])
JOBS_FINISHED = Counter(
    "darkroom_jobs_finished_total", "Jobs ended by a worker, by status.", ["model", "status"]
)
JOB_SECONDS = Histogram(
    "darkroom_job_seconds", "Time from submit to end of computed jobs.", ["model"], buckets=_LATENCY_S
)
BATCHES = Counter("darkroom_batches_total", "Batches run, by outcome.", ["model", "outcome"])
BATCH_SIZE = Histogram(
    "darkroom_batch_images", "Images in a batch.", ["model"], buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
)
BATCH_SECONDS = Histogram(
    "darkroom_batch_seconds",
    "Time of a batch on the device: one step of its images.",
    ["model"],
    buckets=_LATENCY_S,
)
STEPS = Counter("darkroom_steps_total", "Denoising steps done, over all images.", ["model"])
IMAGES = Counter("darkroom_images_total", "Images drawn, encoded and stored.", ["model"])
EMBEDDINGS = Counter(
    "darkroom_embeddings_total",
    "Embeddings of images, by outcome: `made`, `failed`, or made and not recorded because the store had `no_room`.",
    ["outcome"],
)
ENCODE_SECONDS = Histogram("darkroom_encode_seconds", "Time to encode one image.", buckets=_LATENCY_S)
SIGN_SECONDS = Histogram("darkroom_sign_seconds", "Time to sign one image.", buckets=_LATENCY_S)
STORE_SECONDS = Histogram("darkroom_blob_store_seconds", "Time to store one image.", buckets=_LATENCY_S)
DEVICE_MEMORY = Gauge(
    "darkroom_device_memory_bytes", "Device memory in use, after a batch.", ["model", "device"]
)
DEVICE_MEMORY_LIMIT = Gauge(
    "darkroom_device_memory_limit_bytes", "Device memory that the engine may use.", ["model", "device"]
)
ENGINE_INFO = Gauge(
    "darkroom_engine_info",
    "Always 1; the labels describe the loaded engine.",
    ["model", "device", "dtype", "attention"],
)
ENGINE_RESTARTS = Counter(
    "darkroom_engine_restarts_total", "Engine processes replaced, by cause.", ["model", "cause"]
)
ENGINE_LOAD_FAILURES = Counter(
    "darkroom_engine_load_failures_total",
    "Engine processes that did not load their model: `unloadable` with an error, `died` without one, or `timeout`.",
    ["model", "cause"],
)
MESSAGES_REFUSED = Counter(
    "darkroom_messages_refused_total",
    "Messages that are no jobs, or need another version; they are dead-lettered.",
)
IN_FLIGHT = Gauge("darkroom_worker_jobs", "Jobs that a worker holds.", ["model"])

# Webhooks
WEBHOOKS = Counter("darkroom_webhooks_total", "Attempts to deliver webhooks, by outcome.", ["outcome"])
WEBHOOK_SECONDS = Histogram(
    "darkroom_webhook_seconds", "Duration of one call of a receiver.", buckets=_LATENCY_S
)
WEBHOOKS_DUE = Gauge("darkroom_webhooks_due", "Webhooks that are due and not in the queue.")

# Search
SEARCH_SECONDS = Histogram(
    "darkroom_search_seconds", "Duration of one search, in the search process.", buckets=_LATENCY_S
)
SEARCH_EMBED_SECONDS = Histogram(
    "darkroom_search_embed_seconds",
    "Duration of one batch of embeddings in the search process, by kind of input.",
    ["kind"],
    buckets=_LATENCY_S,
)
SEARCH_INDEXED = Counter(
    "darkroom_search_images_total", "Images that came into the index or left it, by outcome.", ["outcome"]
)
SEARCH_LATENESS = Histogram(
    "darkroom_search_lateness_seconds",
    "Time from the end of a job until its image is in the index.",
    buckets=_LATENCY_S,
)
SEARCH_OWED = Gauge("darkroom_search_owed", "Jobs whose images are owed to the index, and not in the queue.")
SEARCH_IMAGES = Gauge("darkroom_search_index_images", "Images in the index.")
SEARCH_FAILED = Counter(
    "darkroom_search_failures_total",
    "Searches that an API process could not answer, by cause: the search process was `away`, had a `timeout`, or said `unavailable`.",
    ["cause"],
)
SEARCH_IMPORTS = Counter(
    "darkroom_search_imports_total",
    "Images that clients imported, by outcome: `added`, `known` (imported before), `refused` (unusable) or `removed`.",
    ["outcome"],
)
JUDGE_SECONDS = Histogram(
    "darkroom_picture_judge_seconds",
    "Time from the encoded images of a job to their verdicts, where a policy is in force.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
PICTURE_VERDICTS = Counter(
    "darkroom_picture_verdicts_total", "Verdicts on finished images, by state.", ["state"]
)
REVIEWS_WAITING = Gauge("darkroom_reviews_waiting", "Held images that wait for a person, at the scrape.")
REVIEW_AGE = Gauge(
    "darkroom_review_age_seconds",
    "For how long the oldest held image has waited, at the scrape; 0: none waits.",
)
REVIEW_DECISIONS = Counter(
    "darkroom_review_decisions_total",
    "What became of held images: reviewers release, refuse, undo or owners appeal; `lapse`: nobody decided in time. "
    "A second look is a reviewer.",
    ["action"],
)
SIGN_INS = Counter(
    "darkroom_sign_ins_total",
    "Sign-ins by OpenID Connect, by outcome: done, refused or unavailable.",
    ["outcome"],
)
SEARCH_RERANKED = Counter(
    "darkroom_search_reranked_total",
    "Searches that the second model ranked again, by outcome: `late` ones were answered in the order that they had.",
    ["outcome"],
)
SIMILAR = Counter(
    "darkroom_similar_answers_total",
    "Requests for a similar answer that had no result of their own, by outcome: `away` if the search process did not answer.",
    ["outcome"],
)
SEARCH_CLICKS = Counter("darkroom_search_clicks_total", "Clicks on hits, by whether they count.", ["outcome"])
SEARCH_GONE = Counter("darkroom_search_gone_total", "Hits whose files were gone, and which left the index.")

# Moderation
POLICY_INFO = Gauge(
    "darkroom_moderation_policy_info",
    "1 for the policy in force, as name@version; 0 for those before it.",
    ["policy"],
)
POLICY_BAD = Gauge(
    "darkroom_moderation_policy_bad",
    "1: the policy on disk cannot be used, and the last good one stays in force.",
)
MODERATED = Counter(
    "darkroom_moderation_findings_total",
    "Findings that led to an action, by layer, category and action.",
    ["layer", "category", "action"],
)
LAYER_SECONDS = Histogram(
    "darkroom_moderation_layer_seconds",
    "Time of one look of a layer.",
    ["layer"],
    buckets=(0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
)
LAYER_AWAY = Counter(
    "darkroom_moderation_away_total",
    "Looks that a layer could not take, by layer and cause: `away`, `busy`, `timeout` or `failed`.",
    ["layer", "cause"],
)
PICTURES_WITHOUT_PDQ = Counter(
    "darkroom_moderation_pictures_without_pdq_total",
    "Pictures with too little detail for a perceptual hash. Digests and embeddings look at them alone.",
)
SCAN_RUNNING = Gauge(
    "darkroom_moderation_scan_running",
    "1: a scan of what is stored has begun and not ended, at the scrape. Also after its process was killed.",
)
SCAN_IMAGES = Gauge(
    "darkroom_moderation_scan_images",
    "Images of the scan that runs or ran last, by what became of them, at the scrape.",
    ["outcome"],
)
PROMPTS_JUDGED = Counter(
    "darkroom_moderation_prompts_total",
    "Requests whose prompts a policy judged, by what followed.",
    ["state"],
)
SECOND_LOOKS = Counter(
    "darkroom_second_looks_total",
    "Attempts at a second look by a model, by outcome: its advice, or why there is none.",
    ["outcome"],
)
SECOND_LOOK_SECONDS = Histogram(
    "darkroom_second_look_seconds", "Duration of one call of the model.", buckets=_LATENCY_S
)
SECOND_LOOKS_DUE = Gauge(
    "darkroom_second_looks_due", "Held images that a model owes a look, and that are not in the queue."
)

RECORDS_UNREADABLE = Counter(
    "darkroom_records_unreadable_total",
    "Documents of a newer version that this process could not read and left to others, by kind.",
    ["kind"],
)

# Errors that are repaired elsewhere, so they are counted and not raised
REPAIRED = Counter(
    "darkroom_repaired_errors_total", "Failed steps that a retry, a sweep or a lease repairs.", ["step"]
)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answered HTTP request and its duration."""
    requests, times = _answers(method, route, status)
    requests.inc()
    times.observe(seconds)


def submitted(model: str, cache: str, steps: int) -> None:
    """Count an accepted job that needs `steps` denoising steps; 0 for a job that is not computed."""
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
    # Cached, since looking up the labels costs more than counting.
    return HTTP_REQUESTS.labels(method, route, str(status)), HTTP_SECONDS.labels(method, route)
