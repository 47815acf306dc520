"""Settings: read once from the environment when a process starts, then passed as arguments.

Each field `name` is the variable `DARKROOM_NAME`. A bad value stops the process with an error that names
the variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from contracts.addresses import parse_networks
from contracts.documents import Frozen
from contracts.errors import SettingsError
from contracts.ids import ShardCount
from contracts.requests import MAX_TEXT_CHARS
from contracts.tenancy import TOKEN_PATTERN
from contracts.urls import BrokerUrl, RedisUrl, WebUrl, is_cluster

PREFIX = "DARKROOM_"

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def _delays(text: str) -> tuple[float, ...]:
    delays = tuple(float(part) for part in text.split(","))
    if not all(0 < delay < 1e6 for delay in delays):
        raise ValueError("every delay must be above 0 seconds")
    return delays


def _delays_text(text: str) -> str:
    _delays(text)
    return text


@dataclass(frozen=True, slots=True)
class LoraSource:
    """Where an adapter comes from: a folder, a safetensors file, or a hub id at a commit (`revision`)."""

    name: str
    source: str
    revision: str | None


_LORA: Final = re.compile(r"([A-Za-z0-9][\w.-]{0,63})=([^\s,@=]+)(?:@([0-9a-f]{40}))?", re.ASCII)


def _lora_sources(text: str) -> tuple[LoraSource, ...]:
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _LORA.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part} is not name=folder, name=file.safetensors or name=owner/name@commit, a commit of 40 hex digits"
            )
        found.append(LoraSource(*match.groups()))
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError("every adapter needs a name of its own")
    return tuple(found)


def _loras_text(text: str) -> str:
    _lora_sources(text)
    return text


_ALIAS: Final = re.compile(r"([^\s,=]{1,200})=([^\s,=]{1,200})")


def _aliases(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _ALIAS.fullmatch(part)
        if match is None:
            raise ValueError(f"{part} is not alias=model")
        if match[1] in found:
            raise ValueError(f"{match[1]} is named twice")
        found[match[1]] = match[2]
    if chained := sorted(found.keys() & set(found.values())):
        raise ValueError(f"{chained[0]} is both an alias and what one stands for")
    return found


def _aliases_text(text: str) -> str:
    _aliases(text)
    return text


ModelAliases = Annotated[str, AfterValidator(_aliases_text)]
"""Other names of models as `alias=model`, separated by commas."""
LoraSources = Annotated[str, AfterValidator(_loras_text)]
"""Adapters as `name=source`, separated by commas."""
RetryDelays = Annotated[str, AfterValidator(_delays_text)]
"""Seconds, separated by commas."""
Networks = Annotated[str, AfterValidator(_networks)]
"""Networks in CIDR notation, separated by commas."""


class Settings(Frozen):
    """Base of the settings classes. Each class reads only its own variables."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Parse the variables of this class, from `environ` or the process's environment. An empty value counts as unset.

        Raises `SettingsError`, which names each wrong variable.
        """
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
    """Holds job records: no eviction, and persistence."""
    cache_redis_url: RedisUrl | None = None
    """Holds results: may evict. By default the same server as `redis_url`."""
    redis_timeout_s: Seconds = 2.0
    publish_timeout_s: Seconds = 5.0
    blob_dir: Path = Path(".cache/blobs")

    blob_s3_bucket: str | None = None
    """An S3 bucket for the pictures, in place of `blob_dir`; credentials and region come from the AWS SDK's own settings."""
    blob_s3_endpoint: WebUrl | None = None
    """The server of the bucket, where it is not AWS."""
    blob_s3_prefix: str = "blobs/"
    blob_retention_s: Seconds = 259_200.0
    """Pictures older than this are deleted. Keep it above `result_ttl_s` + `job_retention_s`: so long may one be named."""
    blob_max_bytes: Count | None = None
    """The oldest pictures are deleted beyond this many bytes in all; by default only age counts."""

    job_ttl_s: Seconds = 300.0
    """A job that has not ended this long after its submit ends `expired`."""
    job_retention_s: Seconds = 86_400.0
    """Ended jobs can be read this long."""
    result_ttl_s: Seconds = 86_400.0
    """A cached result is served this long."""
    lease_s: Seconds = 10.0
    """A worker that has not renewed its lease for this long has lost its jobs."""
    worker_ttl_s: Seconds = 10.0
    """A worker that has not announced itself for this long counts as gone."""
    worker_grace_s: Annotated[float, Field(ge=0)] = 60.0
    """A model without a live worker takes jobs this long after its last one was heard of: a restart, a crash or a new version
    brings another. Then they are refused, unless it scales from zero. 0: at once."""
    max_attempts: Count = 3
    queue_max_length: Count = 100_000
    max_images_per_job: Count = 4
    """The most images of one job; the API also accepts no more than the model's `max_batch`. A worker fails a job that has more than both."""
    share_cache_between_tenants: bool = False

    redis_max_connections: Count = 64
    """Of one process to one Redis server."""
    store_shards: ShardCount | None = None
    """In how many namespaces the state Redis keeps its jobs: 1, 2, 4, 8 or 16, the same for all processes. By default 1, and 16 where
    `redis_url` names a cluster, whose nodes share them. `darkroom migrate` changes it."""
    public_url: WebUrl | None = None
    """Where clients reach the API, `https://darkroom.example`: makes links absolute, in webhooks and in OpenAI's answers. By default
    the first have none, and the second are as each client reached us."""
    webhook_allow_networks: Networks = ""
    """Private networks, as `10.1.0.0/16,127.0.0.1/32`, that webhooks may call, also over plain http. Without it they reach
    public addresses over https alone."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: WebUrl | None = None
    """Where traces go, by OTLP over HTTP: `http://collector:4318`. By default there are none, and they cost nothing."""
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the traces begun here that are kept; one begun by a caller is kept if the caller keeps it."""

    @property
    def shards(self) -> int:
        """The number of shards of the job store."""
        return self.store_shards or (16 if is_cluster(self.redis_url) else 1)


def without_secrets(settings: Settings) -> dict[str, str]:
    """The variables of these settings without secrets: no user or password in a URL, and no secret field."""
    hidden = {PREFIX + name.upper() for name, field in type(settings).model_fields.items() if not field.repr}
    shown = {name: value for name, value in settings.to_env().items() if name not in hidden}
    return {name: re.sub(r"(?<=://)[^/@]*@", "", value) for name, value in shown.items()}


class ApiSettings(BackendSettings):
    """The settings of an API process."""

    host: str = "127.0.0.1"
    port: Port = 8000
    """0: a free one, which the log names. One that another process uses is refused."""
    share_port: bool = False
    """Several API processes of one platform on this machine listen on one port, each with this setting; the kernel shares the
    connections out. By default a port is one process's alone, so that two platforms never answer for each other."""
    max_body_bytes: Count = 65_536
    max_prompt_chars: Annotated[int, Field(ge=1, le=MAX_TEXT_CHARS)] = 2_000
    max_wait_s: Seconds = 60.0
    """The longest `Prefer: wait` that is honoured; more is cut to this."""
    metrics_tenants: Annotated[int, Field(ge=0)] = 10
    """Metrics name so many tenants in each process, those that load it most; all others are `_other`. 0: there are none by tenant."""
    default_model: str | None = None
    """Served where a request names no model; by default the first by name that a worker serves."""
    model_aliases: ModelAliases = ""
    """Other names that requests may use for models: `dall-e-3=sd-turbo,gpt-image-1=sd-turbo`. An alias goes before a model of
    that name."""
    scale_from_zero: bool = False
    """Take jobs for a model that no live worker serves: something will start one. By default they are refused."""
    hot_results: Annotated[int, Field(ge=0)] = 10_000
    """Results that each process remembers by itself, in front of the cache; 0: none."""
    hot_result_ttl_s: Seconds = 10.0
    default_output_format: Literal["png", "jpeg", "webp"] = "png"
    """What a picture is where a request does not say."""
    default_response_format: Literal["url", "b64_json"] = "b64_json"
    """How OpenAI's route answers where a request does not say: with addresses, or with the pictures in base64."""
    max_connections: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    """Connections of clients that one process has open; more wait until one of them ends. Keep it above `max_event_streams` and
    `max_waits` together: these hold theirs."""
    max_connections_per_address: Count | None = None
    """Of these, at most so many to one address (of IPv6: one /64); the newest beyond are closed. By default there is no limit: behind
    a proxy all come from one address, and the proxy has the limit."""
    max_header_bytes: Annotated[int, Field(ge=8192, le=1_048_576)] = 16_384
    """The head of a request may be this long; a longer one is refused with 431. Also the buffer of a connection."""
    header_timeout_s: Seconds = 10.0
    """A connection that has sent no whole head of a request for this long is closed: a new one, a slow one, one that is kept
    alive."""
    write_timeout_s: Seconds = 30.0
    """A client that takes nothing of its answer for this long is cut off. On Linux."""
    max_event_streams: Count = 1024
    """Open streams of job events in one process; more are refused with 503."""
    max_event_streams_per_key: Count = 256
    """Of these, at most so many to one key, or without keys to one address; more are refused with 429."""
    max_waits: Count = 1024
    """Requests that one process holds for a job to end; more get the job as it stands."""
    max_waits_per_key: Count = 512
    """Of these, at most so many of one key, or without keys of one address."""
    reads_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Jobs, lists and streams that one key may ask one process for in a minute, on average; more are refused with 429. Without keys
    it counts by address. By default there is no limit."""
    event_heartbeat_s: Seconds = 15.0
    """A stream that has been silent for this long sends a comment, so that no proxy takes it for dead."""
    max_cost: Annotated[float, Field(gt=0)] = 256.0
    """The most that one job may cost: its pixels times steps times pictures, in millions (megapixel-steps)."""
    store_full_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """No new job is recorded where the state Redis has used this share of its `maxmemory`: those that it has need room to end."""
    tenant_store_bytes: Count | None = None
    """What the kept jobs of one tenant may take of the state Redis; by default half of its `maxmemory`. More are refused with 429."""
    max_batch_body_bytes: Count = 2_097_152
    """The body of a batch of requests may be this long; all others `max_body_bytes`."""
    max_init_image_bytes: Count = 2_097_152
    """The file of an `init_image` may be this long; a body that holds one so much longer."""
    max_init_image_pixels: Count = 16_777_216
    """An `init_image` with more is refused by its header, and never decoded."""
    init_image_memory_bytes: Count = 402_653_184
    """Memory for the `init_image`s that are decoded at once, in all: each takes what its header says it needs, and waits until there is so
    much. One that needs more than all of it is refused."""
    init_image_timeout_s: Seconds = 5.0
    """Decoding one `init_image` may take so long; then its process is killed, and the request is refused."""
    init_image_wait_s: Seconds = 10.0
    """An `init_image` that has not begun to be decoded after so long is refused with 503."""
    allow_anonymous: bool | None = None
    """Whether requests without an API key are served. By default they are where only this machine can reach `host`."""
    allowed_hosts: str = ""
    """Names, separated by commas, that a server without keys answers to beside addresses, `localhost`, `host` and that of
    `public_url`; `.example.org` stands for all names under it. Against web pages that make their own name point here."""
    admin_key: str | None = Field(default=None, pattern=TOKEN_PATTERN, repr=False)
    """A key of every scope that needs no store: the first one, with which others are created. `darkroom keys new` makes one."""

    @property
    def aliases(self) -> dict[str, str]:
        """The model that each alias stands for."""
        return _aliases(self.model_aliases)

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
    """What clients call it; by default the last part of `model`."""
    model_revision: str | None = None
    """A hub revision to load."""
    max_num_inference_steps: Count | None = None
    """The most steps that requests may ask for; by default what the model says. With two or more it starts from pictures too."""
    engine: Literal["diffusers", "fake"] = "diffusers"
    """`fake` paints coloured noise from the seed without a model: for timing and fault tests only."""
    engine_memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """An engine process whose resident memory grows beyond this ends itself, and is replaced. By default what the container or the
    machine has, less a tenth of it, and less 384 MiB at the least. 0: no limit."""
    fake_log: Path | None = None
    """Where the fake engine writes the seed of every picture that it has finished, one a line."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    max_batch: Count = 8
    """Images in one forward pass."""
    torch_threads: Count = 1
    load_timeout_s: Seconds = 600.0
    batch_timeout_s: Seconds = 120.0
    """A batch that runs longer counts as hung: its engine process is killed."""
    drain_timeout_s: Seconds = 30.0
    """How long a stopping worker may finish what it has begun."""
    heartbeat_s: Seconds = 2.5
    metrics_port: Port = 0
    """Where `/metrics`, `/healthz` and `/readyz` of the worker listen; 0: nowhere."""
    prompt_cache: Count = 256
    """Texts whose embeddings the engine keeps, so that the same prompt with another seed is not encoded again."""
    attention: Literal["auto", "flash", "xformers", "sdpa", "sage", "math"] = "auto"
    """The kernel of the UNet's attention. What cannot run here stops the worker, with the reason."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """The arithmetic: by default float16 on an accelerator, float32 on a CPU."""
    quantise: Literal["none", "int8", "int8-dynamic", "fp8"] = "none"
    """`int8`: weights of UNet and text encoders in eight bits, a quarter of float32's; computed in `precision`. `int8-dynamic` multiplies
    integers too, `fp8` 8-bit floating point numbers, where the device has them."""
    quality_floor_db: Annotated[float, Field(ge=0)] = 20.0
    """A quantised model whose pictures differ more than this from its own in float32 (PSNR, golden prompts) is refused."""
    quality_prompts: Path | None = None
    """Golden prompts, one a line; by default four of ours."""
    vae: str = "model"
    """The decoder: the model's own, `tiny` (TAESD from the hub, of the model's family), or another's folder or hub id."""
    compile: bool = False
    """Compile the UNet's repeated blocks at the start. Minutes, once for each machine; needs a C++ compiler."""
    quality_clip: str | None = None
    """A CLIP, as folder or hub id, that compares the golden pictures too."""
    quality_floor_clip: Annotated[float, Field(ge=0, le=1)] = 0.9
    """The cosine of a quantised picture's CLIP embedding to that of the model's own, below which it is refused."""
    calibration_prompts: Path | None = None
    """Prompts, one a line, on which a quantised model is calibrated: layers that suffer most stay in float until the floors are reached."""
    fixed_batch: Count | None = None
    """Every call of a network has exactly so many rows, filled up where there are fewer: a picture is equal to the bit in any company."""
    graphs: Literal["off", "auto"] = "off"
    """`auto`: on CUDA, the launches of UNet and decoder are recorded once for each shape and replayed (CUDA graphs)."""
    loras: LoraSources = ""
    """The LoRA adapters that requests may name, as `pixel=loras/pixel,ink=owner/ink@<commit>`: folders, safetensors files, or hub
    ids with a commit. Not with `compile`, `quantise` or `graphs`."""

    @property
    def deliveries(self) -> int:
        """How many messages the broker delivers ahead: those of the running batch and of the next one."""
        return 2 * self.max_batch

    @property
    def lora_sources(self) -> tuple[LoraSource, ...]:
        """The adapters of `loras`, parsed."""
        return _lora_sources(self.loras)


class WebhookSettings(BackendSettings):
    """The settings of a process that delivers webhooks."""

    webhook_timeout_s: Seconds = 15.0
    """One delivery in all: resolving, connecting, sending, and the receiver's answer."""
    webhook_concurrency: Count = 64
    """Deliveries at once in one process."""
    webhook_per_receiver: Count = 8
    """Of these, at most so many to one host, so that a slow one does not hold up the others."""
    webhook_retry_s: RetryDelays = "5,30,300,1800,7200,18000,36000,50400,72000,72000"
    """Seconds from one attempt to the next, each stretched or shrunk by up to a tenth at random. Some three days in all."""
    metrics_port: Port = 0
    """Where `/metrics`, `/healthz` and `/readyz` of the process listen; 0: nowhere."""

    @property
    def retry_delays_s(self) -> tuple[float, ...]:
        """The delays of `webhook_retry_s`, parsed, in seconds."""
        return _delays(self.webhook_retry_s)
