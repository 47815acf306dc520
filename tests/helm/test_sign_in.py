"""Sign-in by OpenID Connect in the chart: API processes alone get it, and the client's secret stays in its Secret."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import RenderError, environment, render
from tests.helm.test_network import open_ports
from tests.helm.test_templates import pod

OIDC: dict[str, Any] = {
    "issuer": "https://id.example/realms/studio",
    "clientId": "darkroom",
    "moderators": ["reviewers", "desk"],
    "admins": ["operators"],
}
PUBLIC = {"public_url": "https://darkroom.example"}


def test_nobody_signs_in_until_a_provider_is_named() -> None:
    rendered = render()
    for name in ("-emoji-turbo", "-api"):
        assert not [each for each in environment(pod(rendered, name)) if "OIDC" in each]


def test_the_api_alone_gets_the_provider_and_the_secret() -> None:
    rendered = render({"auth": {"oidc": {**OIDC, "existingSecret": {"name": "studio"}}}, "settings": PUBLIC})
    assert {name: value for name, value in environment(pod(rendered, "-api")).items() if "OIDC" in name} == {
        "DARKROOM_OIDC_ISSUER": "https://id.example/realms/studio",
        "DARKROOM_OIDC_CLIENT_ID": "darkroom",
        "DARKROOM_OIDC_CLIENT_SECRET": {"secretKeyRef": {"name": "studio", "key": "client-secret"}},
        "DARKROOM_OIDC_SCOPE": "openid profile",
        "DARKROOM_OIDC_CLAIM": "groups",
        "DARKROOM_OIDC_MODERATORS": "reviewers,desk",
        "DARKROOM_OIDC_ADMINS": "operators",
    }
    assert not [each for each in environment(pod(rendered)) if "OIDC" in each]


@pytest.mark.parametrize(("host", "port"), [("id.example", 443), ("id.example:8443", 8443)])
def test_the_api_may_reach_the_provider(host: str, port: int) -> None:
    oidc = {**OIDC, "issuer": f"https://{host}/realms/studio"}
    rendered = render({"auth": {"oidc": oidc}, "settings": PUBLIC})
    assert port in open_ports(rendered, "Deployment", "-api")
    assert port not in open_ports(render(), "Deployment", "-api")


def test_a_public_client_has_no_secret() -> None:
    api = pod(render({"auth": {"oidc": OIDC}, "settings": PUBLIC}), "-api")
    assert "DARKROOM_OIDC_CLIENT_SECRET" not in environment(api)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"auth": {"oidc": OIDC}}, "auth.oidc: settings.public_url must say"),
        ({"auth": {"oidc": {**OIDC, "clientId": ""}}, "settings": PUBLIC}, "auth.oidc.clientId"),
        ({"auth": {"oidc": {**OIDC, "issuer": "http://id.example"}}}, "does not match pattern"),
        ({"auth": {"oidc": {**OIDC, "moderators": ["a,b"]}}}, "does not match pattern"),
        (
            {"api": {"settings": {"oidc_client_secret": "x"}}},
            "additional properties 'oidc_client_secret' not",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(values)
    assert words in str(refused.value)
