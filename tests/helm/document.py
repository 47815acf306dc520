"""`python -m tests.helm.document`: writes what of the chart follows from elsewhere, so that it cannot drift.

The settings that values.schema.json knows come from `contracts/settings.py`; the reference in the chart's README.md from the
comments of values.yaml.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from contracts import moderation_settings, search_settings, settings
from contracts.settings import Settings
from tests.helm.tools import ROOT

CHART: Final = ROOT / "helm" / "darkroom"
BEGIN: Final = "<!-- values -->"
END: Final = "<!-- /values -->"
# The chart says where services are by Secrets: nothing of that belongs into a ConfigMap.
BY_SECRET: Final = frozenset(
    {
        "admin_key",
        "broker_url",
        "redis_url",
        "cache_redis_url",
        "moderation_log_key",
        "moderation_token",
        "oidc_client_secret",
        "search_index",
        "search_token",
    }
)


def setting_schemas() -> dict[str, Any]:
    """JSON schema of each setting of any process."""
    found: dict[str, Any] = {}
    for each in (
        *vars(settings).values(),
        *vars(search_settings).values(),
        *vars(moderation_settings).values(),
    ):
        if inspect.isclass(each) and issubclass(each, Settings) and each is not Settings:
            for name, schema in each.model_json_schema()["properties"].items():
                if name not in BY_SECRET:
                    found[name] = {k: v for k, v in schema.items() if k not in ("default", "title")}
    return dict(sorted(found.items()))


def schema_text() -> str:
    """values.schema.json with the settings as they are now."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["$defs"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": setting_schemas(),
    }
    return json.dumps(schema, indent=1) + "\n"


def documented() -> list[tuple[str, str, str]]:
    """Each value of values.yaml that a `# --` comment describes: its path, default and description, in order."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows: list[tuple[str, str, str]] = []
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if note := re.match(r"\s*# ?(?:-- )?(.*)", line):
            comment = [note[1]] if "# -- " in line else [*comment, note[1]] if comment else []
        elif key := re.match(r"( *)([\w-]+):", line):
            path = [(indent, name) for indent, name in path if indent < len(key[1])] + [(len(key[1]), key[2])]
            if comment:
                names = [name for _, name in path]
                value = values
                for name in names:
                    value = value[name]
                rows.append((".".join(names), json.dumps(value), " ".join(comment)))
            comment = []
    return rows


def readme_text() -> str:
    """The chart's README.md with the table of values as it is now."""
    text = (CHART / "README.md").read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    rows = [f"| `{path}` | `{default}` | {words} |" for path, default, words in documented()]
    return "\n".join([head + BEGIN, "| value | default | meaning |", "|---|---|---|", *rows, END + tail])


def stale() -> dict[Path, str]:
    """Files that would change, with what they should hold."""
    wanted = {CHART / "values.schema.json": schema_text(), CHART / "README.md": readme_text()}
    return {path: text for path, text in wanted.items() if path.read_text() != text}


if __name__ == "__main__":
    for path, text in stale().items():
        path.write_text(text)
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
