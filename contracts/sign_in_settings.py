"""The settings of the API that concern people who sign in by OpenID Connect."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from contracts.documents import Frozen
from contracts.setting_types import Seconds
from contracts.urls import WebUrl


def names_of(text: str) -> frozenset[str]:
    """The names that are separated by commas in `text`."""
    return frozenset(filter(None, map(str.strip, text.split(","))))


def _scope(text: str) -> str:
    if "openid" not in text.split():
        raise ValueError("it must hold openid")
    return text


class SignInSettings(Frozen):
    """Settings of `contracts.settings.ApiSettings`. Without `oidc_issuer` nobody signs in."""

    oidc_issuer: WebUrl | None = None
    """The OpenID provider by which people sign in, `https://id.example/realms/studio`. By default there are API keys only. It needs
    `public_url`, `oidc_client_id`, and the extra `oidc`."""
    oidc_client_id: str | None = None
    """What the provider calls this platform. Its redirect URI there is `public_url` and `/sign-in/callback`."""
    oidc_client_secret: Annotated[str, Field(repr=False)] = ""
    """The secret of the client; empty: a public client, which PKCE protects alone."""
    oidc_scope: Annotated[str, AfterValidator(_scope)] = "openid profile"
    """What the provider is asked for, separated by spaces. Some providers tell groups only where `groups` is asked for."""
    oidc_claim: Annotated[str, Field(min_length=1, max_length=200)] = "groups"
    """The claim that says what a person may do: a text or a list of texts. `realm_access.roles` is a claim within a claim."""
    oidc_moderators: str = ""
    """Values of `oidc_claim`, separated by commas, that give the scope `moderate`."""
    oidc_admins: str = ""
    """Values of `oidc_claim`, separated by commas, that give the scopes `moderate` and `admin`."""
    oidc_audiences: str = ""
    """Audiences, separated by commas, that an identity token may name beside the client's id. By default it may name no other."""
    oidc_session_s: Seconds = 28_800.0
    """How long a person stays signed in. Then the provider is asked again."""
