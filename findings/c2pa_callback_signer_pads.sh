#!/usr/bin/env bash
# Most people would guess: the same key and certificates add the same bytes to a picture, whether c2pa-python signs itself or calls a
# function of ours, as for a key service. The function's signature gets 10 kB of room, and what it does not fill stays in every file as
# zeros: a picture of a few kB grows fourfold. `Signer.reserve_size()` says so before anything is signed, and cannot be set.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check c2pa-python==0.38.1 cryptography==50.0.2
"$folder/venv/bin/python" - <<'PY'
import datetime as dt
from importlib.metadata import version

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

print("c2pa-python", version("c2pa-python"), "with c2pa-rs", c2pa.sdk_version())
key, now = ed25519.Ed25519PrivateKey.generate(), dt.datetime.now(dt.timezone.utc)
name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "studio"), x509.NameAttribute(NameOID.COMMON_NAME, "studio")])
chain = (
    x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(30))
    .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    .sign(key, None).public_bytes(serialization.Encoding.PEM)
)
private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
algorithm = c2pa.C2paSigningAlg.ED25519
info = c2pa.C2paSignerInfo(alg=algorithm, sign_cert=chain, private_key=private, ta_url=None)
itself = c2pa.Signer.from_info(info).reserve_size()
function = c2pa.Signer.from_callback(key.sign, algorithm, chain.decode()).reserve_size()
print(f"room for a signature of 64 bytes and a chain of {len(chain)} bytes in PEM: {itself} by itself, {function} by a function")
if function - itself < 8_000:
    raise SystemExit("CHANGED: a function's signature gets no more room than the library's own")
PY
