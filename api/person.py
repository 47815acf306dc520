"""What an OpenID provider's claims make of a person here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.errors import SignInRefused
from contracts.sessions import MAX_NAME_CHARS, MAX_SUBJECT_CHARS, Session
from contracts.settings import ApiSettings
from contracts.sign_in_settings import names_of
from contracts.tenancy import Scope


def values_of(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """The texts of a claim: one text, or those of a list. `a.b` is a claim of that name, or `b` in `a`."""
    if path in claims:
        return texts_of(claims[path])
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return texts_of(value)


def texts_of(value: object) -> frozenset[str]:
    """The text that `value` is, or those that it lists."""
    listed = value if isinstance(value, list) else [value]
    return frozenset(each for each in listed if isinstance(each, str))


def scopes_of(values: frozenset[str], settings: ApiSettings) -> tuple[Scope, ...]:
    """What a person may do who has these values of the claim."""
    if values & names_of(settings.oidc_admins):
        return (Scope.MODERATE, Scope.ADMIN)
    return (Scope.MODERATE,) if values & names_of(settings.oidc_moderators) else ()


def name_of(claims: Mapping[str, Any]) -> str:
    """What the person is called, in printable characters."""
    for claim in ("name", "preferred_username", "email", "sub"):
        name = claims.get(claim)
        if isinstance(name, str) and (shown := "".join(filter(str.isprintable, name)).strip()):
            return shown[:MAX_NAME_CHARS]
    return ""


def session_of(claims: Mapping[str, Any], settings: ApiSettings, now: float) -> Session:
    """The session of the person with these claims, which have been checked. Raises `SignInRefused`."""
    subject = claims["sub"]
    if not 0 < len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
        raise SignInRefused("The sign-in service's answer could not be confirmed.", "sub")
    scopes = scopes_of(values_of(claims, settings.oidc_claim), settings)
    if not scopes:
        raise SignInRefused("You may not use these pages with this sign-in. Ask an operator.", "scope")
    return Session(
        issuer=settings.oidc_issuer or "",
        subject=subject,
        name=name_of(claims),
        scopes=scopes,
        began_at=now,
        ends_at=now + settings.oidc_session_s,
    )
