"""`darkroom moderation`: policies, what they need, and held images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli.group import Commands
from cli.moderation_fit_pictures import fit_pictures
from cli.moderation_import import import_list
from cli.moderation_reviews import export, log, refuse, release, reviews, undo
from cli.moderation_scan import scan
from cli.options import Json
from cli.tables import dash, print_table
from contracts import exit_codes
from contracts.moderation import CATEGORY
from moderation.policy import InvalidPolicy, LayerRule, Policy, Thresholds, read, schema
from moderation.policy_second_look import SecondLookRules

app = typer.Typer(
    cls=Commands,
    help="Moderation: check a policy, fit and import what it needs, review held images, scan what is stored.\n\n"
    "Example: darkroom moderation check policy.yaml",
    no_args_is_help=True,
)
app.command("import")(import_list)
app.command("fit-pictures")(fit_pictures)
for _command in (reviews, release, refuse, undo, export, log, scan):
    app.command()(_command)

PolicyPath = Annotated[Path, typer.Argument(help="The policy, a YAML file.", show_default=False)]


@app.command()
def check(path: PolicyPath, as_json: Json = False) -> None:
    """Check a policy and every file that it names, and say what looks at what.

    Exit code 2: the policy cannot be used. The message names the file and the field.

    Example: darkroom moderation check policy.yaml
    """
    try:
        policy = read(path)
        rows = _lookers(policy)
    except InvalidPolicy as error:
        typer.echo(f"darkroom moderation: {error}", err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None
    if as_json:
        looks = [
            dict(zip(("layer", "looks_at", "category", "what", "entries"), row, strict=True)) for row in rows
        ]
        rules = {name: rule.model_dump() for name, rule in policy.rules.items()}
        second = None if policy.second_look is None else policy.second_look.model_dump(mode="json")
        told = {"policy": policy.title, "looks": looks, "rules": rules, "second_look": second}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"{policy.title} can be used.\n")
    if rows:
        print_table(
            ("LAYER", "LOOKS AT", "CATEGORY", "WHAT", "ENTRIES"),
            [[dash(cell) for cell in row] for row in rows],
        )
    else:
        typer.echo("Nothing looks: it names no list, head or classifier.")
    typer.echo("")
    layers = ("words", "meaning", "hashes", "pictures", "second_look")
    table = [
        (tenant, name, *(_rule(getattr(rule, layer)) for layer in layers))
        for tenant, rules in (("all", policy.rules), *policy.rules_by_tenant.items())
        for name, rule in rules.items()
    ]
    print_table(("TENANT", "CATEGORY", *(layer.upper() for layer in layers)), table)
    closed = [layer for layer in layers if getattr(policy.when_away, layer) == "closed"]
    if policy.second_look is not None:
        typer.echo("")
        for line in _second_look(policy.second_look):
            typer.echo(line)
    typer.echo(f"\nLayers without which nothing passes: {', '.join(closed) or 'none'}")


@app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a policy, for an editor or a pipeline.

    Example: darkroom moderation schema > policy.schema.json
    """
    typer.echo(json.dumps(schema(), indent=2))


@app.command()
def fit(
    prompts: Annotated[
        Path, typer.Argument(help="CSV with the columns prompt and label.", show_default=False)
    ],
    category: Annotated[str, typer.Option(help="The category; also its label in the file, or 1.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The head, a JSON file that a policy names.")],
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="The recall that the threshold is for.")
    ] = 0.95,
    as_json: Json = False,
) -> None:
    """Fit a head on labelled prompts, and say how well it does on prompts that it has not seen.

    A label is the category (or 1), or benign (or 0). Phrases that somebody has put into the old file stay.
    Needs the extra `moderation`. Exit code 2: a file cannot be used.

    Example: darkroom moderation fit prompts.csv --category weapons --out head.json
    """
    from cli.moderation_fit import Unfit, fit_head

    if not re.fullmatch(CATEGORY, category):
        raise typer.BadParameter(f"{category!r} is no category: lower-case letters, digits and _.")
    try:
        told = fit_head(prompts, category, out, recall)
    except Unfit as error:
        typer.echo(f"darkroom moderation: {error}", err=True)
        raise typer.Exit(exit_codes.UNUSABLE) from None
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(
        f"{told['harmful']} prompts of {category}, {told['benign']} benign ones; each is scored by a head without it."
    )
    typer.echo(f"ROC AUC       {told['auc']:.4f}")
    typer.echo(f"threshold     {told['threshold']:.4f}  (recall {told['recall']:.4f})")
    typer.echo(f"false alarms  {told['false_alarms']:.4f}")
    typer.echo(f"Wrote {out}.")


def _lookers(policy: Policy) -> list[tuple[str, str, str, str, int | None]]:
    """Who looks: layer, at what, category, the file or model, and its entries. Raises `InvalidPolicy`."""
    from moderation.word_list import read_list
    from moderation.words import compiled

    compiled(policy)
    fields = ", ".join(policy.words.fields)
    words = [(each.category, read_list(each.file, plurals=each.with_plurals)) for each in policy.words.lists]
    words += [("(exceptions)", read_list(file, plurals=True)) for file in policy.words.exceptions]
    rows: list[tuple[str, str, str, str, int | None]] = [
        ("words", fields, category, entries.source, len(entries.phrases)) for category, entries in words
    ]
    rows += [("meaning", "prompt", "", head.file.name, None) for head in policy.meaning.heads]
    pictures = policy.pictures
    rows += [("hashes", "pictures", each.category, each.file.name, None) for each in pictures.lists]
    rows += [("pictures", "pictures", "", head.file.name, None) for head in pictures.heads]
    for each in pictures.classifiers:
        rows += [
            ("pictures", "pictures", name, str(each.model), None)
            for name in sorted(set(each.labels.values()))
        ]
    if policy.second_look is not None:
        asked = {place.split(".")[-1] for place, rule in policy.every_rule if rule.second_look != "allow"}
        rows += [
            ("second_look", "held pictures", name, policy.second_look.model, None) for name in sorted(asked)
        ]
    return rows


def _second_look(rules: SecondLookRules) -> Iterator[str]:
    """What operators should know of a second look: who gets what, and what it may do."""
    sent = "the image and its prompt" if rules.send_prompt else "the image"
    yield f"Second look: {sent} of what is held goes to {rules.url} ({rules.model})."
    may = " and ".join(rules.may)
    yield f"It may {may} by itself." if may else "It only advises; people decide."
    yield (
        f"At most {rules.attempts} calls of {rules.timeout_s:g} s within {rules.deadline_s:g} s, and"
        f" {rules.budget_per_hour} an hour. After that, and while it is away, people decide."
    )
    if rules.api_key_env is not None:
        yield f"Its key is the variable {rules.api_key_env} of the process that calls it."
    elif rules.api_key_file is not None:
        yield f"Its key is in {rules.api_key_file} of the process that calls it."


def _rule(rule: LayerRule) -> str:
    if isinstance(rule, Thresholds):
        given = rule.model_dump(exclude_none=True)
        return ", ".join(f"{action} from {score:g}" for action, score in given.items()) or "allow"
    return rule
