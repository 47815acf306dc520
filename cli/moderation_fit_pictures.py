"""`darkroom moderation fit-pictures`: trains a head on pictures of a category and of everything else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.moderation_import import CategoryOption, end_unusable
from cli.options import Json
from moderation.child_embedder import ChildEmbedder, EmbeddingFailed


def fit_pictures(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of images. Those below a folder named after the category show it, the others do not.",
            exists=True,
            file_okay=False,
        ),
    ],
    category: CategoryOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The head to write.", dir_okay=False)],
    clip: Annotated[str, typer.Option(envvar="DARKROOM_CLIP", help="The CLIP of the workers.")],
    recall: Annotated[
        float, typer.Option(min=0, max=1, help="The recall that a threshold is named for.")
    ] = 0.99,
    as_json: Json = False,
) -> None:
    """Train a head that finds a category in pictures, by the embeddings that the workers make.

    Example: darkroom moderation fit-pictures --help
    """
    # Read when numpy is loaded: many small products are slower on many threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from moderation.pictures.fit import TooFewPictures, fit
        from moderation.pictures.labelled import embedded
    except ModuleNotFoundError as error:
        end_unusable(f"This needs the package {error.name}: pip install 'darkroom[moderation]'.")
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[read]} embedded"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    try:
        with ChildEmbedder(clip) as embedder, bar:
            task = bar.add_task("", total=None, read=0)
            vectors, labels = embedded(folder, category, embedder, lambda read: bar.update(task, read=read))
        fitted = fit(vectors, labels, category, embedder.clip)
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text(json.dumps(fitted.head.model_dump(mode="json"), separators=(",", ":")) + "\n")
        partial.replace(out)
    except (EmbeddingFailed, TooFewPictures, ValueError) as error:
        end_unusable(str(error))
    except OSError as error:
        end_unusable(f"{error.filename or out}: {error.strerror}.")
    threshold, found, alarms = fitted.threshold(recall)
    if as_json:
        answer = {"head": str(out), "clip": embedder.clip, "pictures": len(labels), "auc": fitted.auc}
        at = {"threshold": threshold, "recall": found, "false_alarms": alarms}
        typer.echo(json.dumps({**answer, **at, "roc": fitted.roc}, indent=2))
        return
    typer.echo(f"{out}: {fitted.head.note}")
    typer.echo(
        f"At {threshold:.2f}: recall {found:.4f}, false alarms {alarms:.4f}, on the pictures kept apart."
    )
