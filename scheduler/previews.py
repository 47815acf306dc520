"""After which denoising steps a preview is shown."""

from __future__ import annotations


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """The steps, of `steps` denoising steps, after which `previews` previews are shown.

    They are evenly spread, distinct, in ascending order, and never include the last step, which is the
    finished image. There are fewer previews if there are not enough steps before it.
    """
    shown = max(0, min(previews, steps - 1))
    # Each part is at least one step long, so no step occurs twice.
    return tuple(round(part * steps / (shown + 1)) for part in range(1, shown + 1))
