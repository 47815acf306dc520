"""A certificate authority that exists for one test, and what it issues."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate's chain and its key as files, and the authority's own certificate."""

    certificates: Path
    key: Path
    anchors: Path
    private: Key


class Authority:
    """Issues certificates that are fit to sign images, unless a test wants them otherwise."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = self._certificate("Authority", self._key, None)
        self._anchors = folder / "anchors.pem"
        self._anchors.write_bytes(_pem(self._own))

    def issue(
        self,
        name: str = "Studio",
        key: Key | None = None,
        days: tuple[int, int] = (-1, 365),
        purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    ) -> Issued:
        """A certificate that is valid for `days` from now, for `purpose`."""
        private = key or ec.generate_private_key(ec.SECP256R1())
        leaf = self._certificate(name, private, purpose, days)
        chain, file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        chain.write_bytes(_pem(leaf) + _pem(self._own))
        file.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Issued(chain, file, self._anchors, private)

    def _certificate(
        self,
        name: str,
        key: Key,
        purpose: x509.ObjectIdentifier | None,
        days: tuple[int, int] = (-1, 3650),
    ) -> x509.Certificate:
        own, now = key is self._key, dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("Authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=own,
                    crl_sign=own,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{common} Ltd"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
