"""Identity tokens: whether one is what it says (OpenID Connect Core 1.0, section 3.1.3.7). Pure.

joserfc checks the signature, Authlib the claims. Only public keys are taken, so no token can be
signed with a key that everybody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    InvalidKeyIdError,
    JoseError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import JWKRegistry, KeySet
from joserfc.jws import JWSRegistry

from api.person import texts_of

ALGORITHMS: Final = (
    "ES256",
    "ES384",
    "ES512",
    "Ed25519",
    "EdDSA",
    "PS256",
    "PS384",
    "PS512",
    "RS256",
    "RS384",
    "RS512",
)
"""Signatures by a key pair. `none` and signatures by a shared secret are no proof of the issuer."""
LEEWAY_S: Final = 60
"""By how many seconds the provider's clock may differ from ours."""


class BadIdToken(Exception):
    """The token does not prove who the person is. `cause` names the check that failed."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class UnknownSigningKey(BadIdToken):
    """The provider's keys, as they are known here, have none of the token's name."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token must say. `audiences` are those that it may name besides the client."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str
    audiences: frozenset[str] = frozenset()


def keys_of(document: Mapping[str, Any]) -> KeySet:
    """The public keys of a provider's key set (RFC 7517). Those that we cannot use are left out."""
    keys = []
    listed = document.get("keys")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and each.get("kty") != "oct" and each.get("use") in (None, "sig"):
            try:
                keys.append(JWKRegistry.import_key(each))
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    return KeySet(keys)


def claims_of(token: str, keys: KeySet, expected: Expected, now: float) -> dict[str, Any]:
    """What the token says, once all checks have passed. `now`: Unix seconds.

    Raises `BadIdToken`, and `UnknownSigningKey` if newer keys may help.
    """
    try:
        decoded = jwt.decode(token, keys, registry=JWSRegistry(algorithms=list(ALGORITHMS)))
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            options={
                "iss": {"essential": True, "value": expected.issuer},
                "aud": {"essential": True, "value": expected.client_id},
                "sub": {"essential": True},
            },
            params={
                "client_id": expected.client_id,
                "nonce": expected.nonce,
                "access_token": expected.access_token,
            },
        )
        claims.validate(now=int(now), leeway=LEEWAY_S)
    except InvalidKeyIdError:
        raise UnknownSigningKey("key") from None
    except ExpiredTokenError:
        raise BadIdToken("exp") from None
    except ClaimError as error:
        raise BadIdToken(error.claim) from None
    except BadSignatureError:
        raise BadIdToken("signature") from None
    except UnsupportedAlgorithmError:
        raise BadIdToken("algorithm") from None
    except (JoseError, ValueError, TypeError, OverflowError):
        raise BadIdToken("format") from None
    if not texts_of(claims["aud"]) <= expected.audiences | {expected.client_id}:
        raise BadIdToken("aud")
    return dict(claims)
