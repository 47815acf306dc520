"""Signed images in the chart: workers get the key, the API gets the certificates that it trusts."""

from __future__ import annotations

from typing import Any

from tests.helm.chart import environment, render
from tests.helm.test_templates import pod


def secret_of(spec: dict[str, Any]) -> dict[str, Any] | None:
    """The Secret that is mounted where the settings say."""
    mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
    name = mounts.get("/etc/darkroom/c2pa")
    found = [each["secret"] for each in spec["volumes"] if each["name"] == name]
    return found[0] if found else None


def test_images_are_not_signed_until_a_secret_is_named() -> None:
    rendered = render()
    for name in ("-emoji-turbo", "-api"):
        assert not [each for each in environment(pod(rendered, name)) if "C2PA" in each]
        assert secret_of(pod(rendered, name)) is None


def test_only_workers_get_the_key() -> None:
    rendered = render({"provenance": {"existingSecret": "studio", "prompt": True}})
    worker, api = pod(rendered), pod(rendered, "-api")
    assert {name: value for name, value in environment(worker).items() if "C2PA" in name} == {
        "DARKROOM_C2PA_CERTIFICATES": "/etc/darkroom/c2pa/certificates.pem",
        "DARKROOM_C2PA_KEY": "/etc/darkroom/c2pa/key.pem",
        "DARKROOM_C2PA_PROMPT": "true",
    }
    assert secret_of(worker) == {
        "secretName": "studio",
        "items": [
            {"key": "tls.crt", "path": "certificates.pem"},
            {"key": "tls.key", "path": "key.pem"},
        ],
    }
    assert environment(api)["DARKROOM_C2PA_TRUST_ANCHORS"] == "/etc/darkroom/c2pa/anchors.pem"
    assert secret_of(api) == {"secretName": "studio", "items": [{"key": "ca.crt", "path": "anchors.pem"}]}


def test_an_api_without_anchors_trusts_nobody() -> None:
    api = pod(render({"provenance": {"existingSecret": "studio", "anchors": ""}}), "-api")
    assert not [name for name in environment(api) if "C2PA" in name]
    assert secret_of(api) is None
