"""The requests of a storm: every field at random within the limits that the server announces. Pure: a seed, an index and the
models of `GET /v1/models` make one request, always the same, so that one that failed can be sent again."""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.requests import MAX_PREVIEWS, MAX_SEED, steps_taken
from contracts.settings import ApiSettings
from tests.storm.pictures import KINDS, picture

MODES: Final = {
    "poll": 3,
    "hold": 4,
    "events": 4,
    "batch": 2,
    "repeat": 2,
    "cancel": 3,
    "openai": 3,
    "openai stream": 2,
    "spoiled": 2,
}
"""How a request is sent and followed, with its weight. `spoiled` ones break one limit and must be refused."""
WORDS: Final = [
    *(
        "a",
        "an",
        "the",
        "red",
        "blue",
        "green",
        "bright",
        "dark",
        "on",
        "under",
        "beside",
        "watercolour",
        "3d",
    ),
    *(
        "apple",
        "rocket",
        "snowman",
        "pizza",
        "guitar",
        "key",
        "octopus",
        "mushroom",
        "vector",
        "naïve",
        "ﬁre",
    ),
    *("苹果", "ракета", "تفاحة", "🍎", "👩\u200d🚀", "½", "ǅ"),
]
HOT: Final = 24
"""Bodies that are sent again and again, so that the cache is hit and computations are joined."""
HOT_SHARE: Final = 0.2
MAX_PROMPT_CHARS: Final = int(ApiSettings.model_fields["max_prompt_chars"].default)

Model = Mapping[str, Any]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `bodies` has one entry but in a batch; `pause_s` is how long a client waits before it cancels."""

    index: int
    mode: str
    bodies: list[Body]
    pictures: list[str] = field(default_factory=list)
    """The kinds of the source pictures in it."""
    pause_s: float = 0.0


def asked(seed: int, index: int, models: Sequence[Model]) -> Asked:
    """Request number `index` of the storm `seed`."""
    rng = random.Random(f"{seed}:{index}")
    (mode,) = rng.choices(list(MODES), list(MODES.values()))
    pictures: list[str] = []
    if mode in ("openai", "openai stream"):
        bodies = [_openai(rng, rng.choice(models), stream=mode == "openai stream")]
    elif mode == "spoiled":
        bodies = [_spoiled(rng, rng.choice(models))]
    else:
        bodies = []
        for _ in range(rng.randint(2, 5) if mode == "batch" else 1):
            body_rng = random.Random(f"{seed}:hot:{rng.randrange(HOT)}") if rng.random() < HOT_SHARE else rng
            body, kind = _body(body_rng, body_rng.choice(models))
            bodies.append(body)
            pictures += [kind] if kind else []
    return Asked(index, mode, bodies, pictures, rng.uniform(0, 0.5) if mode == "cancel" else 0.0)


def _maybe(rng: random.Random, share: float = 0.5) -> bool:
    return rng.random() < share


def _upto(rng: random.Random, high: int) -> int:
    """1 to `high`, each order of magnitude as likely as the others, and the ends often."""
    if _maybe(rng, 0.1):
        return high
    return min(high, int(math.exp(rng.uniform(0, math.log(high + 1)))))


def _prompt(rng: random.Random) -> str:
    words = " ".join(rng.choices(WORDS, k=_upto(rng, 120)))
    return words[:MAX_PROMPT_CHARS]


def _side(rng: random.Random, model: Model) -> int:
    multiple: int = model["size_multiple"]
    return multiple * rng.randint(math.ceil(model["min_size"] / multiple), model["max_size"] // multiple)


def _size(rng: random.Random, model: Model) -> tuple[int, int]:
    while True:
        width, height = _side(rng, model), _side(rng, model)
        if width * height <= model["max_pixels"]:
            return width, height


def _shared(rng: random.Random, model: Model) -> Body:
    """Fields that both routes have."""
    body: Body = {"prompt": _prompt(rng), "model": model["id"]}
    if _maybe(rng, 0.8):  # more often than others: a default of 25 steps would be most of the work
        body["num_inference_steps"] = _upto(rng, model["max_num_inference_steps"])
    if _maybe(rng):
        body["guidance_scale"] = rng.choice((0, 1, rng.uniform(0, model["max_guidance_scale"])))
    if _maybe(rng, 0.3):
        body["negative_prompt"] = rng.choice(("", _prompt(rng)))
    if _maybe(rng, 0.7):
        body["seed"] = rng.choice(("random", 0, MAX_SEED, rng.randrange(MAX_SEED)))
    if _maybe(rng):
        body["output_format"] = rng.choice(("png", "jpeg", "webp"))
    return body


def _body(rng: random.Random, model: Model) -> tuple[Body, str]:
    """A body of `POST /v1/jobs`, and the kind of its source picture; empty: it has none."""
    body = _shared(rng, model)
    if _maybe(rng, 0.7):
        body["width"], body["height"] = _size(rng, model)
    if _maybe(rng, 0.4):
        body["num_images"] = rng.randint(1, model["max_num_images"])
    if _maybe(rng, 0.3):
        body["priority"] = rng.choice(("interactive", "batch"))
    if _maybe(rng, 0.1):
        body["timeout_seconds"] = rng.choice((0.1, 1.0, 60.0))
    if _maybe(rng, 0.4):
        body["output_quality"] = rng.randint(1, 100)
    if _maybe(rng, 0.3):
        body["lossless"] = _maybe(rng) and body.get("output_format") != "jpeg"
    if _maybe(rng, 0.3):
        body["embed_metadata"] = _maybe(rng)
    if _maybe(rng, 0.3):
        body["cache"] = rng.choice(("use", "refresh", "off"))
    if _maybe(rng):
        body["previews"] = rng.randint(0, MAX_PREVIEWS)
    if _maybe(rng, 0.3):
        body["metadata"] = {f"word {number}": _prompt(rng)[:512] for number in range(rng.randint(0, 16))}
    if model["loras"] and _maybe(rng, 0.3):
        body["lora"] = {"name": rng.choice(model["loras"]), "scale": rng.uniform(0, 2)}
    kind = ""
    if model["init_images"] and _maybe(rng):
        kind = rng.choice(list(KINDS))
        data = base64.b64encode(picture(kind, rng)).decode()
        head = f"data:image/{kind.split()[0]};base64," if _maybe(rng) else ""
        body["init_image"] = head + data
        _start(rng, body, model)
    return body, kind


def _start(rng: random.Random, body: Body, model: Model) -> None:
    """Steps and a strength of which at least one step is left; either may be left to the server."""
    most = model["max_num_inference_steps"]
    steps = body.pop("num_inference_steps", None)
    if most == 1:
        body["strength"] = 1.0
    elif steps is not None:
        strength = rng.uniform(1 / steps, 1.0)
        body |= {"num_inference_steps": steps, "strength": strength if steps_taken(steps, strength) else 1.0}
    elif _maybe(rng):
        body["strength"] = rng.uniform(1.01 / most, 1.0)


def _openai(rng: random.Random, model: Model, *, stream: bool) -> Body:
    """A body of `POST /v1/images/generations`."""
    body = _shared(rng, model)
    if _maybe(rng):
        body["size"] = rng.choice(("auto", "x".join(map(str, _size(rng, model)))))
    if _maybe(rng):
        body["n"] = rng.randint(1, model["max_num_images"])
    if _maybe(rng):
        body["response_format"] = rng.choice(("url", "b64_json"))
    if _maybe(rng):
        body["output_compression"] = rng.randint(0, 100)
    if _maybe(rng):
        body["quality"] = rng.choice(("low", "high", "auto", "hd"))
    if _maybe(rng):
        body["background"] = rng.choice(("auto", "opaque"))
    if stream:
        body |= {"stream": True, "partial_images": rng.randint(0, 3)}
    return body


def _spoiled(rng: random.Random, model: Model) -> Body:
    """A body with one thing wrong."""
    body = _shared(rng, model)
    wrong: list[Body] = [
        {"prompt": ""},
        {"prompt": "a" * (MAX_PROMPT_CHARS + 1)},
        {"prompt": 7},
        {"model": "none"},
        {"width": model["max_size"] + model["size_multiple"]},
        {"height": model["min_size"] - model["size_multiple"]},
        {"num_inference_steps": model["max_num_inference_steps"] + 1},
        {"num_inference_steps": 0},
        {"guidance_scale": model["max_guidance_scale"] + 0.5},
        {"num_images": model["max_num_images"] + 1},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"output_format": "gif"},
        {"output_quality": 0},
        {"previews": MAX_PREVIEWS + 1},
        {"strength": 0.5},
        {"init_image": "bm8gcGljdHVyZQ=="},
        {"init_image": "*"},
        {"lora": {"name": "none"}},
        {"stpes": 1},
    ]
    return {**body, **rng.choice(wrong)}
