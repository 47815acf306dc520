"""Signs image files. The key is a file, or a function that asks a key service.

A signature differs each time, even for the same file: c2pa-rs salts each assertion (0.91.3). So a file
is signed once, and `worker/signing.py` remembers the result.

`Signer.from_callback` reserves 10 kB for what a function may answer, and the room that is left stays in
the file as zeros. A key in a file is therefore better for small images.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from contracts.ports.image_signer import SigningFailed
from contracts.requests import GenerationRequest
from moderation.provenance.manifest import DRAWN, GENERATOR, created, manifest

Sign = Callable[[bytes], bytes]
"""Signs bytes by the private key of the certificate, as COSE wants it: for ECDSA r and s, each of the curve's size."""

SETTINGS: Final = {
    # A thumbnail can be a thousand times larger than the image that it shows.
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False},
}
_CURVES: Final = {
    "secp256r1": c2pa.C2paSigningAlg.ES256,
    "secp384r1": c2pa.C2paSigningAlg.ES384,
    "secp521r1": c2pa.C2paSigningAlg.ES512,
}
_PROBE: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c4944415478da63f8ffff3f0005fe02fe33122ce10000000049454e44ae426082"
)
"""A PNG of one pixel."""


class Signer:
    """Signs images in the name of a certificate. Any thread may call it."""

    def __init__(
        self,
        certificates: Path,
        key: Path | None = None,
        function: str = "",
        *,
        with_prompt: bool = False,
    ) -> None:
        """`certificates` is a chain in PEM, the signer's own first.

        `key` is its private key in PEM. Without one, `function` names a `Sign` as `module:name`. Raises
        `SigningFailed` where a file cannot be read, the key is another one's, or the certificate is
        not fit for C2PA.
        """
        self._with_prompt = with_prompt
        self._version = version("darkroom")
        chain = _read(certificates)
        try:
            leaf = x509.load_pem_x509_certificates(chain)[0]
        except (ValueError, IndexError) as error:
            raise SigningFailed(f"{certificates} holds no certificate in PEM") from error
        self._algorithm = _algorithm(leaf.public_key())
        self._chain = chain
        self._key = None if key is None else _key(key, leaf)
        self._sign = None if key is not None else _function(function)
        self.fingerprint: Final = hashlib.sha256(
            leaf.public_bytes(serialization.Encoding.DER) + bytes([with_prompt])
        ).hexdigest()[:16]
        """Differs for another certificate, and for another choice of what is said."""
        self._settings = c2pa.Settings.from_dict(SETTINGS)
        self._probe()

    def sign(self, data: bytes, content_type: str, request: GenerationRequest) -> bytes:
        """The file `data` with a signed manifest. Its pixels stay as they are. Raises `SigningFailed`."""
        return self._signed(data, content_type, self._manifest(request))

    def says(self, request: GenerationRequest) -> bytes:
        """The manifest of an image of the request, as JSON."""
        return json.dumps(self._manifest(request), sort_keys=True).encode()

    def _manifest(self, request: GenerationRequest) -> dict[str, Any]:
        return manifest(request, self._version, with_prompt=self._with_prompt)

    def _signed(self, data: bytes, content_type: str, what: dict[str, Any]) -> bytes:
        signed = io.BytesIO()
        try:
            # A context takes its signer over, so each file has its own.
            with (
                c2pa.Context(self._settings, self._signer()) as context,
                c2pa.Builder(what, context) as builder,
            ):
                builder.sign(content_type, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise SigningFailed(f"The image could not be signed: {error}") from error
        return signed.getvalue()

    def _signer(self) -> c2pa.Signer:
        if self._sign is not None:
            return c2pa.Signer.from_callback(self._sign, self._algorithm, self._chain.decode("ascii"))
        info = c2pa.C2paSignerInfo(
            alg=self._algorithm, sign_cert=self._chain, private_key=self._key, ta_url=None
        )
        return c2pa.Signer.from_info(info)

    def _probe(self) -> None:
        """Sign a pixel, and read it back."""
        signed = self._signed(_PROBE, "image/png", created(self._version, {"name": GENERATOR}, DRAWN, {}))
        with c2pa.Reader("image/png", io.BytesIO(signed)) as reader:
            if reader.get_validation_state() == "Invalid":
                faults = json.loads(reader.json()).get("validation_status", [])
                told = "; ".join(dict.fromkeys(f"{each['code']}: {each['explanation']}" for each in faults))
                raise SigningFailed(f"What the key and its certificate sign is not valid: {told}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningFailed(f"{path} cannot be read: {error.strerror}") from error


def _key(path: Path, leaf: x509.Certificate) -> bytes:
    text = _read(path)
    try:
        key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError) as error:
        raise SigningFailed(f"{path} holds no private key in PEM without a password") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoding = serialization.Encoding.DER
    if key.public_key().public_bytes(encoding, form) != leaf.public_key().public_bytes(encoding, form):
        raise SigningFailed(f"The key in {path} is not that of the certificate")
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _function(name: str) -> Sign:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SigningFailed(f"There is no function {name}: write it as module:function") from error
    if not callable(found):
        raise SigningFailed(f"{name} is no function")
    function: Sign = found
    return function


def _algorithm(key: PublicKeyTypes) -> c2pa.C2paSigningAlg:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        case ed25519.Ed25519PublicKey():
            return c2pa.C2paSigningAlg.ED25519
        case rsa.RSAPublicKey():
            return c2pa.C2paSigningAlg.PS256
        case _:
            raise SigningFailed("C2PA takes keys of EC (P-256, P-384, P-521), Ed25519 and RSA")
