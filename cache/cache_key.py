"""The prompt-hash key: SHA-256 of the canonical JSON of everything that decides the pixels, and of
nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from functools import lru_cache
from typing import Final

from backends.blobs import INPUTS
from contracts.models import ModelSpec
from contracts.requests import MAX_SEED, GenerationRequest

ANY: Final = "*"
SCHEMA_VERSION: Final = 2
"""Raised when a change to this file would give an old request another meaning. Old keys then match
nothing."""

_SPECIAL_TOKENS = re.compile(r"(<\|startoftext\|>|<\|endoftext\|>)")
# Unicode's White_Space, as `\s` means in the tokenizer. Python's `\s` adds U+001C..U+001F, which
# are tokens there.
_WHITESPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")

_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)


@lru_cache(maxsize=64)
def normalise_text(text: str) -> str:
    """A text with the same tokens as `text`. Most texts that CLIP's tokenizer does not tell apart
    give the same one.

    It is in NFC and lower case, with runs of white space as one space and the ends stripped. Equal
    results mean equal tokens in every version of Unicode that the tokenizer may know. A piece that
    two versions may read differently stays as it is, which costs a cache hit at most. The tokenizer
    cuts its special tokens out before it normalises, so the text between them is normalised piece
    by piece.
    """
    # split() with a group gives texts at even indices and special tokens at odd ones.
    pieces = _SPECIAL_TOKENS.split(text)
    pieces[::2] = [_normalise_piece(piece) for piece in pieces[::2]]
    return "".join(pieces).strip(" ")


def _normalise_piece(piece: str) -> str:
    if not _settled(piece):
        return piece
    spaced = _WHITESPACE.sub(" ", unicodedata.normalize("NFC", piece))
    # Character by character, as the tokenizer does: str.lower() looks at the neighbours of a final
    # sigma.
    lowered = "".join([character.lower() for character in spaced])
    # The tokenizer composes before it lowers. If lower case would compose further, or would form a
    # special token, it would have other tokens. The piece then keeps its case.
    same_tokens = (
        _settled(lowered)
        and unicodedata.is_normalized("NFC", lowered)
        and not _SPECIAL_TOKENS.search(lowered)
    )
    return lowered if same_tokens else spaced


def _settled(text: str) -> bool:
    """Whether every version of Unicode since 4.1 gives `text` the same NFC.

    A character keeps its decomposition and its combining class for ever
    (unicode.org/policies/stability_policy.html). A version that does not know a character neither
    decomposes nor reorders it. Every version knows the characters of Unicode 3.2, and every Python
    carries a list of them. Later symbols such as emoji are safe as well, since no version changes
    them.
    """
    return text.isascii() or all(
        unicodedata.ucd_3_2_0.category(character) != "Cn" or unicodedata.category(character) in ("So", "Sk")
        for character in text
    )


def tenant_scope(tenant: str, shared: bool) -> str:
    """Who may share a result: all tenants if the operator shares the cache, else the tenant
    alone."""
    return "shared" if shared else f"tenant:{tenant}"


def request_key(request: GenerationRequest, spec: ModelSpec, scope: str, policy: str = "") -> str:
    """The key (64 hex digits) of `request` to the model `spec` within `scope`.

    Equal keys mean equal pixels, up to floating-point tolerance, in files of the same kind. `policy` says
    under which policy of moderation results are shared; empty: there is none. It is part of the key and
    of no seed. A request whose images are held for its prompts has a key of its own.
    """
    subject = {**_subject(request, spec, scope), "seed": request.seed, **_file(request)}
    if policy:
        subject["policy"] = policy
    if request.held:
        subject["held"] = True
    return _digest(subject).hex()


def parameter_group(request: GenerationRequest, spec: ModelSpec, scope: str, policy: str = "") -> str:
    """What all requests have in common that differ in prompt and seed alone, within `scope` and under `policy`.

    It is named like the address of a result, with a hash of the parameters in place of the key. So the
    patterns of `result_pattern` match it too.
    """
    subject = {**_subject(request, spec, scope), **_file(request)}
    del subject["prompt"]
    if policy:
        subject["policy"] = policy
    if request.embed_metadata:
        # The file names the prompt that was drawn, whichever it is.
        subject["embedded"] = [request.negative_prompt]
    key = _digest({**subject, "similar": True}).hex()
    return result_pattern(key=key, scope=scope, model=request.model, revision=request.model_revision)


def derived_seed(request: GenerationRequest, spec: ModelSpec, scope: str) -> int:
    """The seed (0..MAX_SEED) of a request that names none. All other fields decide it;
    `request.seed` is ignored."""
    return int.from_bytes(_digest({**_subject(request, spec, scope), "seed": None})[:8], "big") % (
        MAX_SEED + 1
    )


def _subject(request: GenerationRequest, spec: ModelSpec, scope: str) -> dict[str, object]:
    # A guidance scale of 1 or less switches classifier-free guidance off. The negative prompt is
    # never read.
    guided = request.guidance_scale > 1
    return {
        "version": SCHEMA_VERSION,
        "scope": scope,
        "model": request.model,
        "revision": spec.revision,
        "dtype": spec.dtype,
        "prompt": normalise_text(request.prompt),
        "negative_prompt": normalise_text(request.negative_prompt) if guided else "",
        "width": request.width,
        "height": request.height,
        "steps": request.num_inference_steps,
        **_solver(request),
        # Adding positive zero makes -0.0 equal to 0.0, and an int a float.
        "guidance_scale": request.guidance_scale + 0.0,
        "num_images": request.num_images,
        **_lora(request, spec),
        **_init_image(request),
    }


def _init_image(request: GenerationRequest) -> dict[str, object]:
    """The image to start from, by the hash of its contents; nothing without one."""
    if request.init_image is None:
        return {}
    # Without its folder: init images used to lie among the generated ones, under the same hash.
    return {"init_image": request.init_image.removeprefix(INPUTS), "strength": request.strength}


def _solver(request: GenerationRequest) -> dict[str, object]:
    """The number of denoising steps, for a solver that takes another number than the request names;
    else nothing."""
    return {} if request.denoising_steps is None else {"denoising_steps": request.denoising_steps}


def _lora(request: GenerationRequest, spec: ModelSpec) -> dict[str, object]:
    """The adapter, by its weights. Nothing without one, so that the keys of such requests never
    change."""
    lora = request.lora
    if lora is None:
        return {}
    revision = next((adapter.revision for adapter in spec.loras if adapter.name == lora.name), "")
    return {"lora": [lora.name, revision, lora.scale + 0.0]}


def _file(request: GenerationRequest) -> dict[str, object]:
    """What decides the file around the pixels; nothing for a plain PNG. The seed is not derived
    from it, so another format has the same image."""
    file: dict[str, object] = {}
    if request.output_format != "png":
        file["output"] = [request.output_format, request.output_quality, request.lossless]
    if request.embed_metadata:
        # The file holds the texts unchanged, whether the model reads them or not.
        file["embedded"] = [request.prompt, request.negative_prompt]
    return file


def private_key(key: str, job_id: str) -> str:
    """A key for a job that shares its result with no other. It is on the shard of the job's id."""
    return key[0] + hashlib.sha256(f"{key}:{job_id}".encode("ascii")).hexdigest()[1:]


def result_address(key: str, request: GenerationRequest, scope: str) -> str:
    """Where the result cache keeps the result of `key`: hashes of what it may be purged by, then
    the key."""
    return result_pattern(key=key, scope=scope, model=request.model, revision=request.model_revision)


def result_pattern(
    *, key: str | None = None, scope: str | None = None, model: str | None = None, revision: str | None = None
) -> str:
    """The addresses of all results of a scope, a model, a revision or a key. A part that is None
    matches any."""
    # Hashed, because an address must hold neither characters with a meaning in patterns nor a
    # tenant's name.
    return ".".join([*(_mark(part) for part in (scope, model, revision)), key or ANY])


def covers(pattern: str, address: str) -> bool:
    """Whether the pattern matches the address."""
    pairs = zip(pattern.split("."), address.split("."), strict=True)
    return all(wanted in (ANY, part) for wanted, part in pairs)


def _mark(text: str | None) -> str:
    return ANY if text is None else hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def _digest(subject: dict[str, object]) -> bytes:
    return hashlib.sha256(_CANONICAL.encode(subject).encode("ascii")).digest()
