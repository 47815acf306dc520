"""When a picture in the making is shown."""

from __future__ import annotations


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """After which of its `steps` denoising steps a picture is shown `previews` times: evenly spread, each once, in order,
    never after the last, which is the picture itself. Fewer where there are not so many steps before it."""
    shown = max(0, min(previews, steps - 1))
    # The parts are at least one step long: no step is named twice.
    return tuple(round(part * steps / (shown + 1)) for part in range(1, shown + 1))
