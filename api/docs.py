"""The reference as a page: the OpenAPI document as plain HTML.

It has no script, and loads nothing from other hosts. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any, Final

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1 small, .dim { color: var(--dim); font-weight: normal; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .3rem; } h3 code { font-size: 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
code, pre { font: 13.5px/1.5 ui-monospace, monospace; } pre { overflow-x: auto; border: 1px solid var(--line); padding: .6rem; }
.method { text-transform: uppercase; font-weight: 600; } nav a { margin-right: .8rem; }
"""


def page(document: dict[str, Any]) -> str:
    """The OpenAPI `document` as HTML: every operation, then the schemas."""
    info = document["info"]
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    tags = dict.fromkeys(tag for _, _, operation in operations for tag in operation.get("tags", ["other"]))
    parts = [
        f"<h1>{escape(info['title'])} <small>API, version {escape(info['version'])}</small></h1>",
        f"<p>{escape(info.get('summary', ''))} The same as <a href='/openapi.json'>OpenAPI</a>.</p>",
        "<nav>" + "".join(f"<a href='#{escape(tag)}'>{escape(tag)}</a>" for tag in tags) + "</nav>",
    ]
    for tag in tags:
        parts.append(f"<h2 id='{escape(tag)}'>{escape(tag)}</h2>")
        for path, method, operation in operations:
            if tag in operation.get("tags", ["other"]):
                parts.extend(_operation(path, method, operation))
    parts.append("<h2 id='schemas'>Schemas</h2>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        parts.extend(_schema(name, schema))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h3><code><span class='method'>{escape(method)}</span> {escape(path)}</code></h3>"
    yield f"<p>{escape(operation.get('summary', ''))}. {escape(operation.get('description', ''))}</p>"
    parameters = [
        (f"{item['name']} <span class='dim'>{item['in']}</span>", item.get("schema", {}), item)
        for item in operation.get("parameters", ())
    ]
    if parameters:
        yield "<table><tr><th>parameter<th>type<th>meaning</tr>"
        for name, schema, item in parameters:
            yield f"<tr><td><code>{name}</code><td>{_type(schema)}<td>{escape(item.get('description', ''))}</tr>"
        yield "</table>"
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body, <code>{escape(media)}</code>: {_type(body.get('schema', {}))}</p>"
    yield "<table><tr><th>status<th>answer<th>meaning</tr>"
    for status, answer in operation.get("responses", {}).items():
        shapes = [_type(body.get("schema", {})) + _codes(body) for body in answer.get("content", {}).values()]
        yield f"<tr><td>{escape(status)}<td>{'<br>'.join(dict.fromkeys(shapes))}"
        yield f"<td>{escape(answer.get('description', ''))}</tr>"
    yield "</table>"


def _codes(media: dict[str, Any]) -> str:
    codes = ", ".join(f"<code>{escape(code)}</code>" for code in media.get("examples", ()))
    return f"<br><span class='dim'>{codes}</span>" if codes else ""


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"<h3 id='schema-{escape(name)}'><code>{escape(name)}</code></h3><p>{escape(schema.get('description', ''))}</p>"
    required = schema.get("required", ())
    if "properties" in schema:
        yield "<table><tr><th>field<th>type<th>meaning</tr>"
        for field, part in schema["properties"].items():
            mark = " <span class='dim'>required</span>" if field in required else ""
            yield f"<tr><td><code>{escape(field)}</code>{mark}<td>{_type(part)}<td>{escape(part.get('description', ''))}</tr>"
        yield "</table>"
    elif "enum" in schema:
        yield f"<p>{_type(schema)}</p>"
    for example in schema.get("examples", ()):
        yield f"<pre>{escape(json.dumps(example, indent=1))}</pre>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#schema-{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("multipleOf", "in steps of"),
            ("maxLength", "at most, characters:"),
        )
        if key in schema
    ]
    return escape(" ".join([str(schema.get("type", "anything")), *limits]))
