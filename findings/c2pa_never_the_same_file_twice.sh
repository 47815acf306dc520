#!/usr/bin/env bash
# Most people would guess: a C2PA signature without a time stamp, by Ed25519 and with fixed labels, gives the same file each time. It gives
# another one: the library salts each assertion at random, and has no setting for it. Where files are named by the hash of their bytes, an
# image that is signed again has a new name, so caches and de-duplication must remember the first signed file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check c2pa-python==0.38.1 cryptography==50.0.2 pillow==12.3.0
"$folder/venv/bin/python" - <<'PY'
import datetime as dt
import io
from importlib.metadata import version

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

print("c2pa-python", version("c2pa-python"), "with c2pa-rs", c2pa.sdk_version())
now = dt.datetime.now(dt.timezone.utc)
authority, key = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def certificate(name, public, ca):
    def of(common):
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, common), x509.NameAttribute(NameOID.COMMON_NAME, common)])

    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder().subject_name(of(name)).issuer_name(of("authority")).public_key(public)
        .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(30))
        .add_extension(x509.BasicConstraints(ca, None), True).add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


chain = certificate("studio", key.public_key(), False) + certificate("authority", authority.public_key(), True)
private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
manifest = {
    "label": "urn:c2pa:00000000-0000-4000-8000-000000000001",
    "instance_id": "xmp.iid:00000000-0000-4000-8000-000000000002",
    "claim_generator_info": [{"name": "example", "version": "1"}],
    "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [{
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    }]}}],
}
picture = io.BytesIO()
Image.new("RGB", (64, 64), "red").save(picture, "PNG")


def sign():
    info = c2pa.C2paSignerInfo(alg=c2pa.C2paSigningAlg.ED25519, sign_cert=chain, private_key=private, ta_url=None)
    signed = io.BytesIO()
    with c2pa.Context(settings, c2pa.Signer.from_info(info)) as context, c2pa.Builder(manifest, context) as builder:
        builder.sign("image/png", io.BytesIO(picture.getvalue()), signed)
    return signed.getvalue()


first, second = sign(), sign()
differing = sum(a != b for a, b in zip(first, second))
states = [c2pa.Reader("image/png", io.BytesIO(each)).get_validation_state() for each in (first, second)]
print(f"two signatures of one picture: {len(first)} and {len(second)} bytes, {differing} of them differ, {states}, salts: {first.count(b'c2sh')}")
if first == second or states != ["Valid", "Valid"] or b"c2sh" not in first:
    raise SystemExit("CHANGED: the same input gives the same file")
PY
