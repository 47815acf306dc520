"""What the images install: locked files with hashes, all that they need, and listed for whoever asks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import mmap
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.scripts import script

lock = script("lock")
sbom = script("sbom")

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILES: Final = sorted((ROOT / "docker").glob("*.Dockerfile"))
TARGET: Final = {
    "python_version": lock.python_version(),
    "python_full_version": f"{lock.python_version()}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def test_the_locks_have_the_versions_of_the_constraints() -> None:
    pins = lock.constraints()
    assert len(lock.every()) > 100
    for path in sorted(lock.LOCKS.glob("*.txt")):
        locked = {name: each.version for name, each in lock.read(path.stem).items()}
        assert locked == {name: pins.get(name) for name in locked}, f"{path.name}: make lock writes it"


def test_each_locked_package_has_hashes_and_names_no_place() -> None:
    for path in sorted(lock.LOCKS.glob("*.txt")):
        text = path.read_text()
        assert [name for name, each in lock.parse(text).items() if not each.hashes] == [], path.name
        assert text == lock.render(lock.parse(text)), "nothing else stands in it, such as the URL of an index"


@pytest.mark.parametrize(
    "line",
    [
        "a>=1",
        "a==1,<2 --hash=sha256:00",
        "a==1 --hash=sha256:00",
        "a @ file:///a.whl",
        "--index-url https://b/",
        "A==1",
    ],
)
def test_a_lock_holds_nothing_but_pins_with_hashes(line: str) -> None:
    with pytest.raises(ValueError, match="no pinned package"):
        lock.parse(f"b==1 \\\n    --hash=sha256:{'0' * 64}\n{line}\n")


def required(wanted: Iterable[str]) -> set[str]:
    """All that the requirements lead to in the images, as the packages that are installed here tell it."""
    found: set[str] = set()
    waiting = [(Requirement(each), frozenset[str]()) for each in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, asked = waiting.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({**TARGET, "extra": extra}) for extra in asked or {""}):
            continue
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        found.add(name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            more = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert name in lock.read("gpu"), f"{name} is not installed: its requirements are not known here"
            continue
        waiting += [(Requirement(each), extras) for each in more]
    return found


@pytest.mark.parametrize(
    ("image", "extras"),
    [
        ("api", ["tracing", "webhooks"]),
        ("worker-cpu", ["tracing", "worker", "search", "moderation"]),
        ("worker-cuda", ["tracing", "worker", "search", "moderation", "gpu"]),
    ],
)
@pytest.mark.parametrize("more", [[], ["s3"]])
def test_an_image_has_all_that_its_packages_require(image: str, extras: list[str], more: list[str]) -> None:
    """They are installed with `--no-deps`."""
    packages = lock.image(image, more)
    assert required(lock.wanted(PROJECT, [*extras, *more])) - set(packages) == set(), "make lock writes it"
    assert (image == "api") == ("torch" not in packages)
    assert (image == "worker-cuda") == any(name.startswith("nvidia-") for name in packages)
    assert bool(more) == ("boto3" in packages)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_an_image_installs_what_is_locked(file: Path) -> None:
    text = re.sub(r"\\\n", " ", file.read_text())
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel|download) [^&;\n]*", text)
    assert len(installs) >= 4
    for command in installs:
        locked = "--require-hashes" in command and "--requirement locks/" in command.replace("$(printf '", "")
        torch = '--index-url "${TORCH_INDEX_URL}" --requirement torch.txt' in command
        assert "--no-deps" in command
        assert locked or torch or "--no-index" in command, command


@pytest.mark.parametrize("digest", ["", "ab" * 32])
def test_a_cpu_build_has_the_hash_that_whoever_builds_gives(digest: str) -> None:
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    (command,) = re.findall(r"sed -n .+ constraints\.txt", text)
    environ = {"PATH": "/usr/bin:/bin", "TORCH_SHA256": digest}
    line = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert (
        line.stdout
        == f"torch=={lock.constraints()['torch']}" + (f" --hash=sha256:{digest}" if digest else "") + "\n"
    )


def wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """Writes a wheel without code, and answers its hash."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    described = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as file:
        info = f"{stem}.dist-info"
        file.writestr(
            f"{info}/METADATA", described + "".join(f"Requires-Dist: {each}\n" for each in requires)
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_pip_takes_a_locked_file_and_no_other(tmp_path: Path) -> None:
    digest = wheel(tmp_path, "some-thing", "1.0")
    written = tmp_path / "lock.txt"
    written.write_text(lock.render({"some-thing": lock.Locked("1.0", (digest,))}))
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--isolated",
        "--no-index",
        "--find-links",
        tmp_path,
    ]
    install += ["--dry-run", "--no-deps", "--require-hashes", "--requirement", written]
    taken = subprocess.run(install, capture_output=True, text=True, check=False, timeout=60)
    assert taken.returncode == 0, taken.stderr
    wheel(tmp_path, "some-thing", "1.0", "another-thing")
    refused = subprocess.run(install, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_each_extra_has_a_lock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv, on an index in a folder. What is in the base is in no other lock, and torch with CUDA is apart from the worker's."""
    index = tmp_path / "index"
    index.mkdir()
    hashes = {
        name: wheel(index, name, "1.0", *requires)
        for name, *requires in (
            ("base", "inner"),
            ("inner",),
            ("celery", "inner"),
            ("celery-worker", "celery", "torch"),
            ("torch", "nvidia-blas", "cuda-toolkit", "sympy"),
            ("nvidia-blas",),
            ("cuda-toolkit",),
            ("sympy",),
            ("xformers", "torch"),
            ("boto3",),
            ("nearest", "sympy", "inner"),
            ("judge", "sympy"),
            ("signer",),
            ("signer-in",),
            ("tracer", "base"),
            ("setuptools",),
        )
    }
    wheel(index, "inner", "2.0")
    for name in hashes:
        page = "".join(
            f'<a href="../{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
            for path in index.glob(f"{name.replace('-', '_')}-[0-9]*.whl")
        )
        (index / name).mkdir()
        (index / name / "index.html").write_text(f"<!DOCTYPE html><html><body>{page}</body></html>")
    extras = {"webhooks": ["celery"], "worker": ["celery-worker"], "gpu": ["darkroom[worker]", "xformers"]}
    extras |= {
        "tracing": ["tracer"],
        "s3": ["boto3"],
        "search": ["nearest"],
        "moderation": ["judge"],
        "c2pa": ["signer"],
        "oidc": ["signer-in"],
    }
    optional = "".join(f"{name} = {json.dumps(lines)}\n" for name, lines in extras.items())
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\n[project]\nname = "darkroom"\ndependencies = ["base"]\n'
        f"[project.optional-dependencies]\n{optional}"
    )
    (tmp_path / "constraints.txt").write_text("inner==1.0\n")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "api.Dockerfile").write_text("ARG PYTHON_IMAGE=python:3.13-slim\n")
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.as_uri())
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    found = lock.locks()
    assert {name: set(locked) for name, locked in found.items()} == {
        "darkroom": {"base", "inner"},
        "build": {"setuptools"},
        "webhooks": {"celery"},
        "tracing": {"tracer"},
        "s3": {"boto3"},
        "worker": {"celery", "celery-worker", "sympy"},
        "search": {"nearest"},
        "moderation": {"judge"},
        "c2pa": {"signer"},
        "oidc": {"signer-in"},
        "torch-cuda": {"torch", "nvidia-blas", "cuda-toolkit"},
        "gpu": {"xformers"},
    }
    assert {name: each for locked in found.values() for name, each in locked.items()} == {
        name: lock.Locked("1.0", (digest,)) for name, digest in hashes.items()
    }


MADE_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("image", sorted(lock.IMAGES))
@pytest.mark.parametrize("more", [[], ["s3"]])
def test_a_bill_lists_what_is_locked(image: str, more: list[str]) -> None:
    bill = json.loads(sbom.bill(image, more, MADE_AT))  # validated against the schema of CycloneDX
    listed = {
        each["name"]: lock.Locked(
            each["version"],
            tuple(
                f"sha256:{digest['content']}"
                for reference in each.get("externalReferences", [])
                for digest in reference["hashes"]
                if digest["alg"] == "SHA-256"
            ),
        )
        for each in bill["components"]
    }
    assert len(listed) == len(bill["components"])
    assert listed == lock.image(image, more)
    assert [name for name, each in listed.items() if not each.hashes] == (
        ["torch"] if image == "worker-cpu" else []
    )
    assert all(each["licenses"] for each in bill["components"])
    whole = bill["metadata"]["component"]
    assert (whole["name"], whole["version"]) == (f"darkroom-{image}", PROJECT["version"])
    (depends,) = [each["dependsOn"] for each in bill["dependencies"] if each["ref"] == whole["bom-ref"]]
    assert set(depends) == {each["purl"] for each in bill["components"]}


def test_bills_of_the_same_locks_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(MADE_AT.timestamp())))
    sbom.main(["--folder", str(tmp_path)])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"sbom-{image}.cdx.json": sbom.bill(image, [], MADE_AT) for image in lock.IMAGES
    }
    serials = {json.loads(path.read_text())["serialNumber"] for path in tmp_path.iterdir()}
    assert len(serials) == 3
    with pytest.raises(SystemExit):
        sbom.main(["--folder", str(tmp_path), "gpu2"])


def old_openssl(path: Path) -> set[str]:
    """Versions of OpenSSL before 3.0, which nobody mends any more, that a binary says it holds."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
        return {each.decode() for each in re.findall(rb"OpenSSL [012]\.\d+\.\d+\w*", contents)}


def test_no_package_of_an_image_carries_an_old_openssl(tmp_path: Path) -> None:
    sample = tmp_path / "libcrypto.so"
    sample.write_bytes(b"\x7fELF\0OpenSSL 1.1.1k  FIPS 25 Mar 2021\0")
    assert old_openssl(sample) == {"OpenSSL 1.1.1k"}
    names = required(lock.wanted(PROJECT, ["tracing", "webhooks", "worker", "s3"]))
    binaries = [
        path
        for name in names
        for file in importlib.metadata.files(name) or []
        if ".so" in file.name and (path := Path(str(file.locate()))).is_file()
    ]
    assert len(binaries) > 50
    assert {str(path): found for path in binaries if (found := old_openssl(path))} == {}
