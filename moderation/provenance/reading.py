"""Reads and checks the content credentials of an image file, whoever signed it."""

from __future__ import annotations

import io
import json
from typing import Any, Final, Literal

import c2pa

from moderation.provenance.manifest import NEGATIVE_PROMPT, PROMPT
from views.provenance import ProvenanceView

_UNTRUSTED: Final = "signingCredential.untrusted"


class Unreadable(Exception):
    """The file cannot be read as an image with credentials. The message says why."""


def read(data: bytes, content_type: str, trusted: str = "") -> ProvenanceView:
    """The credentials in a file. Raises `Unreadable`.

    `trusted` are certificates in PEM, as `trust.anchors` reads them. Nothing is fetched from the network.
    """
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if trusted:
        settings["trust"] = {"trust_anchors": trusted}
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(settings)) as context,
            c2pa.Reader(content_type, io.BytesIO(data), context=context) as reader,
        ):
            state, document = reader.get_validation_state(), json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return ProvenanceView(signed=False)
    except c2pa.C2paError as error:
        raise Unreadable(f"The credentials cannot be read: {error}") from error
    return _provenance(state, document)


def _provenance(state: str | None, document: dict[str, Any]) -> ProvenanceView:
    active = document["manifests"].get(document.get("active_manifest"), {})
    signature = active.get("signature_info", {})
    generator = (active.get("claim_generator_info") or [{}])[0]
    actions = [
        action
        for assertion in active.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", ())
    ]
    made: dict[str, Any] = next((each for each in actions if each.get("digitalSourceType")), {})
    agent = made.get("softwareAgent") or {}
    agent = agent if isinstance(agent, dict) else {"name": agent}
    said = made.get("parameters") or {}
    problems = dict.fromkeys(each["code"] for each in document.get("validation_status", ()))
    problems.pop(_UNTRUSTED, None)
    return ProvenanceView(
        signed=True,
        validity=_validity(state),
        problems=tuple(problems),
        issuer=signature.get("issuer"),
        generator=" ".join(filter(None, (generator.get("name"), generator.get("version")))) or None,
        model=agent.get("name"),
        model_revision=agent.get("version"),
        source_type=made.get("digitalSourceType", "").rpartition("/")[2] or None,
        prompt=said.get(PROMPT),
        negative_prompt=said.get(NEGATIVE_PROMPT),
    )


def _validity(state: str | None) -> Literal["trusted", "valid", "invalid"]:
    match state:
        case "Trusted":
            return "trusted"
        case "Valid":
            return "valid"
        case _:
            return "invalid"
