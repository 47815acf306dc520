"""What a signed image says of itself, and what is made of a changed one."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from contracts.engine import Pixels
from contracts.ports.image_signer import SigningFailed
from contracts.requests import GenerationRequest, Lora
from moderation.provenance.reading import Unreadable, read
from moderation.provenance.signing import Signer
from moderation.provenance.trust import anchors
from tests.moderation.authority import Authority, Issued, Key
from views.provenance import ProvenanceView
from worker.encode import Encoded, Output, encode

REQUEST = GenerationRequest(
    model="emoji-turbo",
    model_revision="5f1c3a",
    prompt="a red apple",
    negative_prompt="blue",
    width=64,
    height=64,
    num_inference_steps=1,
    guidance_scale=0.0,
    seed=7,
)
PIXELS = Pixels(64, 64, np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8).tobytes())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def studio(authority: Authority) -> Issued:
    return authority.issue()


def drawn(format_: str, text: str | None = None) -> Encoded:
    return encode(PIXELS, Output(format_, text=text))


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_a_signed_image_says_who_drew_it_and_keeps_its_pixels(format_: str, studio: Issued) -> None:
    file = drawn(format_)
    signed = Signer(studio.certificates, studio.key).sign(file.data, file.content_type, REQUEST)
    assert pixels(signed) == pixels(file.data)
    assert len(signed) < len(file.data) + 5_000
    found = read(signed, file.content_type, anchors(studio.anchors))
    assert (found.validity, found.problems) == ("trusted", ())
    assert (found.issuer, found.generator) == ("Studio Ltd", f"Darkroom {version('darkroom')}")
    assert (found.model, found.model_revision) == ("emoji-turbo", "5f1c3a")
    assert (found.source_type, found.prompt) == ("trainedAlgorithmicMedia", None)
    assert b"red apple" not in signed


def test_prompts_are_signed_if_asked_for_and_an_init_image_is_said(studio: Issued) -> None:
    request = REQUEST.model_copy(
        update={"init_image": "init-1.png", "strength": 0.5, "lora": Lora(name="pixel")}
    )
    signer = Signer(studio.certificates, studio.key, with_prompt=True)
    found = read(signer.sign(drawn("png").data, "image/png", request), "image/png")
    assert (found.validity, found.prompt, found.negative_prompt) == ("valid", "a red apple", "blue")
    assert found.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert signer.fingerprint != Signer(studio.certificates, studio.key).fingerprint


def test_a_changed_pixel_is_noticed(studio: Issued) -> None:
    file = drawn("jpeg")
    signed = bytearray(Signer(studio.certificates, studio.key).sign(file.data, file.content_type, REQUEST))
    signed[-20] ^= 1
    found = read(bytes(signed), file.content_type, anchors(studio.anchors))
    assert (found.validity, found.problems) == ("invalid", ("assertion.dataHash.mismatch",))


def test_an_image_without_credentials_has_none_and_what_is_no_image_is_said() -> None:
    assert read(drawn("png").data, "image/png") == ProvenanceView(signed=False)
    with pytest.raises(Unreadable):
        read(b"no image", "image/png")


def test_embedded_parameters_stay(studio: Issued) -> None:
    file = drawn("png", "a red apple\nSteps: 1")
    signed = Signer(studio.certificates, studio.key).sign(file.data, file.content_type, REQUEST)
    with Image.open(io.BytesIO(signed)) as image:
        assert image.info["parameters"] == "a red apple\nSteps: 1"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ed25519.Ed25519PrivateKey.generate(),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_other_kinds_of_keys_sign_too(make: Callable[[], Key], authority: Authority) -> None:
    issued = authority.issue("Other", make())
    signer = Signer(issued.certificates, issued.key)
    found = read(signer.sign(drawn("png").data, "image/png", REQUEST), "image/png", anchors(issued.anchors))
    assert found.validity == "trusted"


def test_a_function_can_sign_and_its_failure_is_told(studio: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a key service does: the private key is elsewhere."""
    service = types.ModuleType("key_service")
    away = False

    def sign(data: bytes) -> bytes:
        if away:
            raise ConnectionError("the service is away")
        assert isinstance(studio.private, ec.EllipticCurvePrivateKey)
        numbers = decode_dss_signature(studio.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return b"".join(number.to_bytes(32, "big") for number in numbers)

    monkeypatch.setattr(service, "sign", sign, raising=False)
    monkeypatch.setitem(sys.modules, "key_service", service)
    signer = Signer(studio.certificates, function="key_service:sign")
    found = read(signer.sign(drawn("png").data, "image/png", REQUEST), "image/png", anchors(studio.anchors))
    assert found.validity == "trusted"
    away = True
    with pytest.raises(SigningFailed, match="could not be signed"):
        signer.sign(drawn("png").data, "image/png", REQUEST)


def test_many_threads_may_sign_at_once(studio: Issued) -> None:
    signer, file = Signer(studio.certificates, studio.key), drawn("png")
    with ThreadPoolExecutor(4) as pool:
        signed = list(pool.map(lambda _: signer.sign(file.data, "image/png", REQUEST), range(40)))
    states = {read(each, "image/png").validity for each in signed}
    assert (len(signed), states) == (40, {"valid"})
    assert len(set(signed)) == 40  # each signature is another one, so a file is signed once


def unfit(authority: Authority, studio: Issued, folder: Path) -> dict[str, tuple[Path, Path | None, str]]:
    (folder / "empty.pem").write_text("")
    other = authority.issue("Another")
    return {
        "cannot be read": (folder / "none.pem", studio.key, ""),
        "no certificate in PEM": (folder / "empty.pem", studio.key, ""),
        "no private key in PEM": (studio.certificates, studio.certificates, ""),
        "is not that of the certificate": (studio.certificates, other.key, ""),
        "no function none:sign": (studio.certificates, None, "none:sign"),
        "is no function": (studio.certificates, None, "sys:path"),
    }


@pytest.mark.parametrize(
    "words",
    [
        "cannot be read",
        "no certificate in PEM",
        "no private key in PEM",
        "is not that of the certificate",
        "no function none:sign",
        "is no function",
    ],
)
def test_what_cannot_sign_is_refused_at_the_start(
    words: str, authority: Authority, studio: Issued, tmp_path: Path
) -> None:
    certificates, key, function = unfit(authority, studio, tmp_path)[words]
    with pytest.raises(SigningFailed, match=words):
        Signer(certificates, key, function)


def test_a_certificate_that_is_not_fit_for_images_is_refused_at_the_start(authority: Authority) -> None:
    expired = authority.issue("Expired", days=(-30, -1))
    server = authority.issue("Server", purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    for issued in (expired, server):
        with pytest.raises(SigningFailed):
            Signer(issued.certificates, issued.key)
