"""Settings: read once from the environment when a process starts, then passed as arguments.

Each field `name` is the variable `DARKROOM_NAME`. A bad value stops the process; the error names the variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from contracts.documents import Frozen
from contracts.errors import SettingsError
from contracts.ids import ShardCount
from contracts.requests import MAX_TEXT_CHARS
from contracts.setting_types import (
    Count,
    LoraSource,
    LoraSources,
    ModelAliases,
    Networks,
    Port,
    RetryDelays,
    Seconds,
    aliases_of,
    delays_of,
    lora_sources_of,
)
from contracts.sign_in_settings import SignInSettings
from contracts.tenancy import TOKEN_PATTERN
from contracts.urls import BrokerUrl, RedisUrl, WebUrl, is_cluster

PREFIX = "DARKROOM_"


class Settings(Frozen):
    """Base of the settings classes. Each class reads only its own variables."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Parse the variables of this class; empty ones count as unset. Raises `SettingsError`, which names each wrong one."""
        source = os.environ if environ is None else environ
        values = {
            name: source[PREFIX + name.upper()]
            for name in cls.model_fields
            if source.get(PREFIX + name.upper())
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = [
                f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_url=False)
            ]
            raise SettingsError("; ".join(faults)) from None

    def to_env(self) -> dict[str, str]:
        """The environment variables of these settings, for a child process that calls `from_env`."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {PREFIX + name.upper(): str(value) for name, value in values.items()}


class BackendSettings(Settings):
    """The settings that the API and the workers must share: addresses of services, and time limits."""

    broker_url: BrokerUrl = "amqp://guest:guest@127.0.0.1:5672//"
    """RabbitMQ (`amqp://`) in production, Redis (`redis://`) embedded."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """The state Redis: holds job records. It needs persistence and `noeviction`."""
    cache_redis_url: RedisUrl | None = None
    """The cache Redis: holds results, and may evict. By default the same server as `redis_url`."""
    redis_timeout_s: Seconds = 2.0
    publish_timeout_s: Seconds = 5.0
    blob_dir: Path = Path(".cache/blobs")
    blob_s3_bucket: str | None = None
    """An S3 bucket for the images, instead of `blob_dir`. Credentials and region come from the AWS SDK's settings."""
    blob_s3_endpoint: WebUrl | None = None
    """The bucket's server, if it is not AWS."""
    blob_s3_prefix: str = "blobs/"
    blob_retention_s: Seconds = 259_200.0
    """Older images are deleted. Keep it above `result_ttl_s` + `job_retention_s`, the longest time that one is referenced."""
    blob_max_bytes: Count | None = None
    """Above this total size the oldest images are deleted; by default only age counts."""

    job_ttl_s: Seconds = 300.0
    """A job that has not ended this long after its submit ends `expired`."""
    job_retention_s: Seconds = 86_400.0
    """How long ended jobs can be read."""
    result_ttl_s: Seconds = 86_400.0
    """How long a cached result is served."""
    lease_s: Seconds = 10.0
    """A worker that has not renewed its leases for this long loses its jobs."""
    worker_ttl_s: Seconds = 10.0
    """A worker that has not announced itself for this long counts as gone."""
    worker_grace_s: Annotated[float, Field(ge=0)] = 60.0
    """How long a model without a live worker still accepts jobs. Then they are refused, unless it scales from zero. 0: at once."""
    max_attempts: Count = 3
    queue_max_length: Count = 100_000
    max_images_per_job: Count = 4
    """The most images of one job. The API also refuses more than the model's `max_batch`; a worker, more than both."""
    share_cache_between_tenants: bool = False

    redis_max_connections: Count = 64
    """Per process and Redis server."""
    store_shards: ShardCount | None = None
    """The number of shards of the job store: 1, 2, 4, 8 or 16, the same for all processes. By default 1, or 16 if `redis_url`
    names a cluster, whose nodes share them. `darkroom migrate` changes it."""
    public_url: WebUrl | None = None
    """The API's URL for clients, `https://darkroom.example`: makes links in webhooks and OpenAI answers absolute. By default
    webhooks have no links, and OpenAI answers use the URL of the request."""
    webhook_allow_networks: Networks = ""
    """Private networks that webhooks may call, also over http: `10.1.0.0/16,127.0.0.1/32`. Others: public addresses, https only."""

    moderation: Path | None = None
    """The policy of moderation, a YAML file: what prompts and images may not be. By default there is none, and nothing is looked at."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: WebUrl | None = None
    """The collector for traces, by OTLP over HTTP: `http://collector:4318`. By default tracing is off and costs nothing."""
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of our own traces that is kept. A trace that a caller started is kept if the caller keeps it."""

    @property
    def shards(self) -> int:
        """The number of shards of the job store."""
        return self.store_shards or (16 if is_cluster(self.redis_url) else 1)


def without_secrets(settings: Settings) -> dict[str, str]:
    """The variables of these settings without secrets: no user or password in a URL, and no secret field."""
    hidden = {PREFIX + name.upper() for name, field in type(settings).model_fields.items() if not field.repr}
    shown = {name: value for name, value in settings.to_env().items() if name not in hidden}
    return {name: re.sub(r"(?<=://)[^/@]*@", "", value) for name, value in shown.items()}


SimilarFloor = Annotated[float, Field(gt=0, le=1)] | None


class ApiSettings(BackendSettings, SignInSettings):
    """The settings of an API process."""

    host: str = "127.0.0.1"
    port: Port = 8000
    """0: a free port, which the log names. A port that another process uses is refused."""
    share_port: bool = False
    """Let several API processes of one platform listen on one port; all need this setting, and the kernel splits the connections.
    By default a port belongs to one process, so that two platforms never answer for each other."""
    max_body_bytes: Count = 65_536
    max_prompt_chars: Annotated[int, Field(ge=1, le=MAX_TEXT_CHARS)] = 2_000
    max_wait_s: Seconds = 60.0
    """The longest `Prefer: wait`, in seconds; a longer one is cut to this."""
    metrics_tenants: Annotated[int, Field(ge=0)] = 10
    """How many tenants, those with the most load, have their own metrics in each process; all others are `_other`. 0: none."""
    default_model: str | None = None
    """The model of requests that name none; by default the first served model by name."""
    model_aliases: ModelAliases = ""
    """Other names for models: `dall-e-3=sd-turbo,gpt-image-1=sd-turbo`. An alias has precedence over a model of that name."""
    scale_from_zero: bool = False
    """Accept jobs for a model without a live worker, since something will start one. By default they are refused."""
    hot_results: Annotated[int, Field(ge=0)] = 10_000
    """Results in the local result cache (L1) of each process; 0: none."""
    hot_result_ttl_s: Seconds = 10.0
    default_output_format: Literal["png", "jpeg", "webp"] = "png"
    """The image format of requests that name none."""
    default_response_format: Literal["url", "b64_json"] = "b64_json"
    """The answer of OpenAI's route to requests that name no format: URLs, or the images in base64."""
    max_connections: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    """Open client connections per process; more wait until one closes. Keep it above `max_event_streams` + `max_waits`."""
    max_connections_per_address: Count | None = None
    """Open connections per client address (per /64 for IPv6); further ones are closed. No limit by default: behind a proxy all
    connections come from one address, and the proxy sets the limit."""
    max_header_bytes: Annotated[int, Field(ge=8192, le=1_048_576)] = 16_384
    """The longest request head; a longer one is refused with 431. Also the size of a connection's buffer."""
    header_timeout_s: Seconds = 10.0
    """A connection that has sent no complete request head for this long is closed, whether new, slow or kept alive."""
    write_timeout_s: Seconds = 30.0
    """A client that reads nothing of its answer for this long is disconnected. On Linux only."""
    max_event_streams: Count = 1024
    """Open event streams per process; further ones are refused with 503."""
    max_event_streams_per_key: Count = 256
    """Open event streams per key, or per address without keys; further ones are refused with 429."""
    max_waits: Count = 1024
    """Requests per process that wait for a job to end; further ones get the job as it is."""
    max_waits_per_key: Count = 512
    """Waiting requests per key, or per address without keys."""
    reads_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Reads of jobs, lists and streams per minute, on average, per process and key (or address without keys). Further ones
    are refused with 429. No limit by default."""
    event_heartbeat_s: Seconds = 15.0
    """A stream that is silent for this long sends a comment, so no proxy closes it as dead."""
    max_cost: Annotated[float, Field(gt=0)] = 256.0
    """The highest cost of one job: pixels times steps times images, in millions (megapixel-steps)."""
    store_full_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Above this share of the state Redis's `maxmemory` no new job is recorded: existing jobs need room to end."""
    tenant_store_bytes: Count | None = None
    """Memory of one tenant's jobs in the state Redis; by default half of its `maxmemory`. More is refused with 429."""
    max_batch_body_bytes: Count = 2_097_152
    """The longest body of a batch of requests; for all others it is `max_body_bytes`."""
    max_init_image_bytes: Count = 2_097_152
    """The largest file of an `init_image`. A request body that holds one may be longer by this."""
    max_init_image_pixels: Count = 16_777_216
    """An `init_image` with more pixels is refused by its header and never decoded."""
    init_image_memory_bytes: Count = 402_653_184
    """Memory for all `init_image`s that are decoded at once. Each one waits until the memory that its header announces is free.
    One that needs more than all of it is refused."""
    init_image_timeout_s: Seconds = 5.0
    """The longest time to decode one `init_image`. Then its process is killed, and the request is refused."""
    init_image_wait_s: Seconds = 10.0
    """An `init_image` whose decoding has not started after this time is refused with 503."""
    max_import_bytes: Count = 8_388_608
    """The largest file that is imported for the search."""
    max_import_pixels: Count = 33_554_432
    """A file with more pixels is not imported. It is refused by its header and never decoded."""
    max_import_side: Annotated[int, Field(ge=64, le=4096)] = 1024
    """The longest side of a stored import, in pixels. Larger images are scaled down to it."""
    search_url: WebUrl | None = None
    """The search process, `http://127.0.0.1:8010`. By default there is no search."""
    search_token: Annotated[str, Field(repr=False)] = ""
    """The DARKROOM_SEARCH_TOKEN of the search process."""
    search_timeout_s: Seconds = 10.0
    """A search that takes longer is answered with 503."""
    c2pa_trust_anchors: Path | None = None
    """Certificates in PEM. Images that their holders have signed are `trusted` ([provenance](provenance.md))."""
    reviewers: Annotated[int, Field(ge=1, le=9)] = 1
    """How many reviewers must agree on a held image. With 2, no one person releases or refuses one, unless a
    second look that may vote agrees."""
    review_undo_s: Seconds = 3600.0
    """For how long the file of a refused image is kept, so that the refusal can be undone. Then it is deleted."""
    review_pictures_per_day: Count | None = None
    """How many held images one reviewer may open per day of UTC, to limit exposure. No limit by default."""
    appeals_per_day: Count = 20
    """How many appeals a tenant may make per day of UTC."""
    moderation_log_key: Annotated[str, Field(repr=False)] = ""
    """The key that signs the audit trail of moderation. Without one, the trail is chained by hashes only."""
    moderation_url: WebUrl | None = None
    """The process that reads the meaning of prompts, `http://127.0.0.1:8020`. A policy with heads under `meaning` needs it."""
    moderation_token: Annotated[str, Field(repr=False)] = ""
    """The DARKROOM_MODERATION_TOKEN of that process."""
    moderation_timeout_s: Seconds = 1.0
    """The longest wait for it. After that the layer counts as away, and the policy says what follows."""
    similar_floor: SimilarFloor = None
    """The least similarity at which a prompt may be answered by another's images, where a request asks for it. By default none may.
    `python -m search.golden` fits it. The search process needs the same."""
    allow_anonymous: bool | None = None
    """Whether requests without an API key are served. By default only if `host` is reachable from this machine alone."""
    allowed_hosts: str = ""
    """Host names of a server without keys, separated by commas, besides addresses, `localhost`, `host` and the host of `public_url`.
    `.example.org` allows all its subdomains. Protects against web pages that point their own name here (DNS rebinding)."""
    admin_key: str | None = Field(default=None, pattern=TOKEN_PATTERN, repr=False)
    """A key with every scope that is not in the store, to create the other keys with. `darkroom keys new` makes one."""

    @property
    def aliases(self) -> dict[str, str]:
        """The model that each alias stands for."""
        return aliases_of(self.model_aliases)

    @property
    def anonymous(self) -> bool:
        """Whether requests without an API key are served."""
        return is_loopback(self.host) if self.allow_anonymous is None else self.allow_anonymous


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class WorkerSettings(BackendSettings):
    """The settings of a worker and its engine process."""

    model: str = "models/emoji-turbo"
    """A folder in diffusers format, an embedded model (`models/NAME`, wherever the worker runs), or a hub id."""
    model_name: str | None = None
    """The model's name for clients; by default the last part of `model`."""
    model_revision: str | None = None
    """The hub revision to load."""
    max_num_inference_steps: Count | None = None
    """The most steps of a request; by default the model's own. With two or more, requests may give init images too."""
    engine: Literal["diffusers", "fake"] = "diffusers"
    """`fake` paints coloured noise from the seed without a model: for timing and fault tests only."""
    engine_memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """An engine process whose resident memory exceeds this ends and is replaced. By default the memory of the container or machine
    minus a tenth, but minus at least 384 MiB. 0: no limit."""
    fake_log: Path | None = None
    """The file to which the fake engine writes the seed of every finished image, one per line."""
    clip: str = ""
    """A CLIP or SigLIP that embeds finished images: a folder, an embedded model, or a hub id with `@revision`. Empty: none."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    max_batch: Count = 8
    """Images in one forward pass."""
    torch_threads: Count = 1
    load_timeout_s: Seconds = 600.0
    batch_timeout_s: Seconds = 120.0
    """A batch that runs longer counts as hung: its engine process is killed."""
    drain_timeout_s: Seconds = 30.0
    """How long a stopping worker may take to finish its active jobs."""
    heartbeat_s: Seconds = 2.5
    metrics_port: Port = 0
    """The port of the worker's `/metrics`, `/healthz` and `/readyz`; 0: none."""
    prompt_cache: Count = 256
    """How many text embeddings the engine caches, so the same prompt with another seed is not encoded again."""
    attention: Literal["auto", "flash", "xformers", "sdpa", "sage", "math"] = "auto"
    """The kernel of the UNet's attention. One that cannot run here stops the worker, with the reason."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """The dtype of computations: by default float16 on an accelerator, float32 on a CPU."""
    quantise: Literal["none", "int8", "int8-dynamic", "fp8"] = "none"
    """`int8`: 8-bit weights of UNet and text encoders, a quarter of float32's size, computed in `precision`. `int8-dynamic` also
    multiplies in int8, and `fp8` in 8-bit floating point, where the device supports it."""
    quality_floor_db: Annotated[float, Field(ge=0)] = 20.0
    """A quantised model is refused if the PSNR of its images for the golden prompts against float32 is below this."""
    quality_prompts: Path | None = None
    """The file of golden prompts, one per line; by default four built-in ones."""
    vae: str = "model"
    """The decoder: the model's own, `tiny` (TAESD from the hub, for the model's family), or a folder or hub id."""
    compile: bool = False
    """Compile the UNet's repeated blocks at the start. Takes minutes, once per machine; needs a C++ compiler."""
    quality_clip: str | None = None
    """A CLIP model, as folder or hub id, that compares the images of the golden prompts too."""
    quality_floor_clip: Annotated[float, Field(ge=0, le=1)] = 0.9
    """The lowest cosine similarity of CLIP embeddings of quantised and original images; below it the model is refused."""
    calibration_prompts: Path | None = None
    """Prompts, one per line, to calibrate a quantised model: the most sensitive layers stay in float until both floors hold."""
    fixed_batch: Count | None = None
    """Every network call has exactly this many rows, padded or split: an image is bit-identical whatever it is batched with."""
    graphs: Literal["off", "auto"] = "off"
    """`auto`: on CUDA, UNet and decoder are recorded once per shape and replayed (CUDA graphs)."""
    c2pa_certificates: Path | None = None
    """A chain of certificates in PEM, the signer's own first. Finished images are signed in its name ([provenance](provenance.md))."""
    c2pa_key: Path | None = None
    """The private key of the certificate, in PEM without a password."""
    c2pa_signer: str = ""
    """Instead of `c2pa_key`, a Python function that signs, `module:function`; it may ask a key service."""
    c2pa_prompt: bool = False
    """Whether what is signed holds the prompts too."""
    loras: LoraSources = ""
    """The LoRA adapters that requests may name, `pixel=loras/pixel,ink=owner/ink@<commit>`: folders, safetensors files, or hub ids
    with a commit. Not with `compile`, `quantise` or `graphs`."""

    @property
    def deliveries(self) -> int:
        """How many messages the broker delivers ahead: those of the running batch and of the next one."""
        return 2 * self.max_batch

    @property
    def lora_sources(self) -> tuple[LoraSource, ...]:
        """The adapters of `loras`, parsed."""
        return lora_sources_of(self.loras)


class WebhookSettings(BackendSettings):
    """The settings of a process that delivers webhooks."""

    webhook_timeout_s: Seconds = 15.0
    """The timeout of one attempt: resolving, connecting, sending, and the receiver's answer."""
    webhook_concurrency: Count = 64
    """How many deliveries run at once in one process."""
    webhook_per_receiver: Count = 8
    """How many of them may go to one host, so a slow host does not delay the others."""
    webhook_retry_s: RetryDelays = "5,30,300,1800,7200,18000,36000,50400,72000,72000"
    """Seconds between attempts, each varied at random by up to a tenth. About three days in total."""
    metrics_port: Port = 0
    """The port of the process's `/metrics`, `/healthz` and `/readyz`; 0: none."""

    @property
    def retry_delays_s(self) -> tuple[float, ...]:
        """The delays of `webhook_retry_s`, parsed, in seconds."""
        return delays_of(self.webhook_retry_s)
