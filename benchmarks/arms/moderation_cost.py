"""What moderation costs: a platform with a policy beside the same without, and the layers alone."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.arms.known_images import Clip, draw
from benchmarks.arms.picture_models import LARGE_SIDE
from benchmarks.lib import plots
from benchmarks.lib.asking import Unanswered, connect
from benchmarks.lib.asking import draw as draw_job
from benchmarks.lib.cores import isolate, several
from benchmarks.lib.orders import orders
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.platform import QUIET, Platform, served
from benchmarks.lib.ratios import control, means, ratio
from benchmarks.lib.saturate import saturate
from benchmarks.lib.weapon_prompts import matcher
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from contracts.ports.picture_judge import PictureToJudge
from moderation.embedding import MiniLm
from moderation.hashes.importing import import_list
from moderation.heads import Heads
from moderation.judge import open_judge
from moderation.live import LivePolicy
from moderation.meaning import Meaning
from moderation.policy import read

CLIP: Final = str(Path(__file__).parents[2] / "models" / "emoji-clip")
POLICY: Final = """
name: cost
version: 1
words:
  lists: [{file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}]
  exceptions: ['builtin:lists/harmless.en.txt']
meaning: {heads: [{file: 'builtin:heads/weapons.prompts.json'}]}
pictures:
  lists: [{file: known.pdq, category: weapons}]
  heads: [{file: 'builtin:heads/weapons.pictures.json'}]
rules: {weapons: {words: block, meaning: {block: 0.83}, hashes: block, pictures: {review: 0.5, block: 0.95}}}
"""
WARM: Final = 10
PROMPT: Final = "a red apple on a blue background"
_numbers = itertools.count()


def new_prompt() -> str:
    """A harmless prompt that nobody has sent before: what was found in a prompt is remembered."""
    return f"{PROMPT}, number {next(_numbers)}"


def policy_in(folder: Path, hashes: int) -> Path:
    """A policy with a list of so many random hashes."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    rows = (f"Samples,pdq,{random.bytes(32).hex()},X," for _ in range(hashes))
    source = folder / "known.csv"
    source.write_text("\n".join(["collab,signal_type,signal_str,category,tags", *rows, ""]))
    import_list(source, folder / "known.pdq", "weapons")
    (folder / "policy.yaml").write_text(POLICY)
    return folder / "policy.yaml"


@contextmanager
def platforms(folder: Path, policy: Path) -> Iterator[dict[str, str]]:
    """The addresses of three platforms that are alike but for the model's CLIP, and CLIP and the policy. Their engines share a core, and
    everything else has the others. One of them works at a time."""
    port = process.free_port()
    clip = {"DARKROOM_CLIP": CLIP}
    policed = {
        **clip,
        "DARKROOM_MODERATION": str(policy),
        "DARKROOM_MODERATION_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_MODERATION_PORT": str(port),
    }
    with ExitStack() as stack:
        rabbit = stack.enter_context(served(RabbitServer(folder / "rabbitmq")))
        urls, engines = {}, []
        for arm, more in (("plain", {}), ("clip", clip), ("moderated", policed)):
            settings = {**QUIET, "DARKROOM_MODEL_NAME": f"emoji-{arm}", **more}
            opened = Platform.open(settings, folder / arm, broker=rabbit)
            platform = stack.enter_context(opened)
            if arm == "moderated":
                platform.start("moderation", "moderation", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
            urls[arm] = platform.url
            engines.append(platform.engine())
        if several():
            isolate(engines)
        for url in urls.values():
            _warm(url)
        yield urls


def _warm(url: str) -> None:
    """Until a few new prompts in a row were drawn: the process that reads meaning may still be loading."""
    connection, until = connect(url), time.monotonic() + 120
    drawn = 0
    while drawn < WARM:
        try:
            draw_job(connection, {"prompt": new_prompt()})
            drawn += 1
        except Unanswered:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    connection.close()


def latencies(urls: dict[str, str], count: int) -> dict[str, list[float]]:
    """Milliseconds of images that come one at a time, from one platform and the other in turns; `plain` twice (A/A)."""
    samples: dict[str, list[float]] = {"plain": [], "plain_again": [], "clip": [], "moderated": []}
    connections = {arm: connect(urls[arm]) for arm in urls}
    for order in orders(list(samples), count):
        for phase in order:
            took_ms, _ = draw_job(connections[phase.partition("_")[0]], {"prompt": new_prompt()})
            samples[phase].append(took_ms)
    for connection in connections.values():
        connection.close()
    return samples


def rates(urls: dict[str, str], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second at saturation, round by round. `moderated` sends one prompt with many seeds, so its meaning is remembered;
    `moderated_new` sends new prompts."""
    samples: dict[str, list[float]] = {
        name: [] for name in ("plain", "plain_again", "clip", "moderated", "moderated_new")
    }
    for url in urls.values():
        _rate(url, seconds / 4, new=False)  # batches of every size
    for order in orders(list(samples), rounds):
        for phase in order:
            samples[phase].append(_rate(urls[phase.partition("_")[0]], seconds, new=phase.endswith("_new")))
    return samples


def _rate(url: str, seconds: float, *, new: bool) -> float:
    def ask(connection: Any) -> None:
        draw_job(connection, {"prompt": new_prompt() if new else PROMPT, "seed": next(_numbers)})

    found = saturate(lambda: connect(url), ask, seconds)
    if found.failed:
        raise Unanswered(f"{found.failed} of {found.drawn + found.failed} jobs failed.")
    return found.rate


def own_times(policy: Path, count: int) -> dict[str, list[float]]:
    """Milliseconds of each layer for one request of one picture, without platform, on one thread: `small_` is a picture of 64 pixels,
    `large_` one of 512."""
    from PIL import Image

    clip = Clip(CLIP)
    found, model = matcher(), MiniLm()
    judge = open_judge(read(policy), clip.clip)
    meaning = Meaning(model, LivePolicy.opened(policy, lambda each: Heads(each, model.texts)))
    _, (rgb, *_) = draw(1, things=("red apple",))
    sizes = {"small": rgb, "large": np.asarray(Image.fromarray(rgb).resize((LARGE_SIDE, LARGE_SIDE)))}
    pictures = {
        name: PictureToJudge(
            each.tobytes(), each.shape[1], each.shape[0], each.tobytes(), "t", clip.embed(rgb), clip.clip
        )
        for name, each in sizes.items()
    }
    samples: dict[str, list[float]] = {"words": [], "meaning": [], "small_pictures": [], "large_pictures": []}

    async def measured() -> None:
        for number in range(count + WARM):
            prompt = new_prompt()
            times = {}
            begun = time.perf_counter()
            found.find("", prompt)
            times["words"] = time.perf_counter() - begun
            begun = time.perf_counter()
            await meaning.look([prompt])
            times["meaning"] = time.perf_counter() - begun
            for name, picture in pictures.items():
                begun = time.perf_counter()
                look = await judge.look(picture)
                times[f"{name}_pictures"] = time.perf_counter() - begun
                if look.away:
                    raise RuntimeError(f"{look.away} did not look.")
            if number >= WARM:
                for name, seconds in times.items():
                    samples[name].append(1000 * seconds)

    asyncio.run(measured())
    meaning.close()
    judge.close()
    return samples


def drawing_ms(rounds: int) -> list[float]:
    """Milliseconds of one image of 512 pixels in one step, in SD-Turbo's layout with random weights, on one thread: text
    encoder, UNet and VAE. It takes 5 GB."""
    import torch

    from benchmarks import make_checkpoint

    torch.manual_seed(0)
    text, unet, vae = (
        make(1).eval() for make in (make_checkpoint.text_encoder, make_checkpoint.unet, make_checkpoint.vae)
    )
    tokens = torch.zeros(1, 77, dtype=torch.long)
    taken = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            told = text(tokens).last_hidden_state
            latents = unet(torch.randn(1, 4, 64, 64), 999, told).sample
            vae.decode(latents)
            taken.append(1000 * (time.perf_counter() - begun))
    return taken[1:]


def figures_of(
    own: dict[str, list[float]],
    late: dict[str, list[float]],
    rate: dict[str, list[float]],
    drawing: list[float],
) -> dict[str, float]:
    """All figures. Shares of throughput are medians of the rounds' ratios, with their intervals and the A/A control."""
    figures: dict[str, float] = {}
    for name, values in own.items():
        figures |= {
            f"own_{name}_p50_ms": statistics.median(values),
            f"own_{name}_p99_ms": percentile(values, 99),
        }
    for size in ("small", "large"):
        whole = [
            sum(each) for each in zip(own["words"], own["meaning"], own[f"{size}_pictures"], strict=True)
        ]
        figures |= {
            f"own_{size}_p50_ms": statistics.median(whole),
            f"own_{size}_p99_ms": percentile(whole, 99),
        }
    if late:
        base = late["plain"] + late["plain_again"]
        for arm in ("clip", "moderated"):
            figures[f"added_{arm}_p50_ms"] = statistics.median(late[arm]) - statistics.median(base)
            figures[f"added_{arm}_p99_ms"] = percentile(late[arm], 99) - percentile(base, 99)
        again, once = late["plain_again"], late["plain"]
        figures["added_control_p50_ms"] = statistics.median(again) - statistics.median(once)
        figures["added_control_p99_ms"] = percentile(again, 99) - percentile(once, 99)
        figures["plain_p50_ms"] = statistics.median(base)
    if rate:
        plain = means(rate["plain"], rate["plain_again"])
        for arm in ("clip", "moderated", "moderated_new"):
            figures |= ratio(rate[arm], plain).figures(f"throughput_{arm}")
        figures["throughput_moderated_over_clip"] = ratio(rate["moderated"], rate["clip"]).median
        figures |= control(rate["plain"], rate["plain_again"])
        figures["plain_per_s"] = statistics.median(plain)
    if drawing:
        figures["drawing_ms"] = statistics.median(drawing)
        figures["own_over_drawing"] = figures["own_large_p50_ms"] / figures["drawing_ms"]
    return figures


def plot_of(own: dict[str, list[float]], late: dict[str, list[float]], rate: dict[str, list[float]]) -> Any:
    """Left: the layers alone. Middle: images one at a time. Right: images a second at saturation."""
    figure, grid = plots.canvas(1, 3, figsize=(15, 4))
    left, middle, right = np.ravel(grid)
    names = {
        "words": "words",
        "meaning": "meaning",
        "small_pictures": "pictures, 64 px",
        "large_pictures": "pictures, 512 px",
    }
    plots.shares(
        left,
        {label: own[name] for name, label in names.items()},
        "milliseconds of a layer",
        "share of requests",
        xscale="log",
    )
    if late:
        plots.shares(middle, late, "milliseconds of an image", "share of images")
    if rate:
        plots.points(right, rate, "images per second", rotation=20)
    return figure
