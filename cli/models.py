"""`darkroom models`: the models of a server, with their limits."""

from __future__ import annotations

from typing import Any

from cli.options import ApiKey, Json, Server
from cli.server import connected
from cli.tables import dash, print_json, print_table
from client import Model


def models(as_json: Json = False, server: Server = None, api_key: ApiKey = None) -> None:
    """List the models of a server: workers, size, steps, and what a request may use.

    Example: darkroom models
    """
    with connected(server, api_key) as client:
        served = client.models()
    if as_json:
        print_json(served)
        return
    print_table(
        ("MODEL", "WORKERS", "SIZE", "STEPS", "GUIDANCE", "INIT IMAGE", "LORAS", "ALIASES"),
        [_row(model) for model in served],
    )


def _row(model: Model) -> tuple[object, ...]:
    # An older server may lack a field.
    known: dict[str, Any] = {name: dash(value) for name, value in model.model_dump().items()}

    def field(name: str) -> Any:
        return known.get(name, "-")

    return (
        model.id,
        model.live_workers,
        f"{field('default_width')}x{field('default_height')} (to {field('max_size')})",
        f"{field('default_num_inference_steps')} (to {field('max_num_inference_steps')})",
        f"{field('default_guidance_scale')} (to {field('max_guidance_scale')})",
        "yes" if field("init_images") is True else "no",
        _names(known.get("loras")),
        _names(known.get("aliases")),
    )


def _names(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "-"
