"""`python docker/digests.py REGISTRY [--check]`: pins the images that the chart, compose.yaml and the Dockerfiles name.

REGISTRY is the URL of a registry that has them, such as a mirror of your own. Each tag is asked for there, and the digest of the
very manifest that was read is written behind it. With --check nothing is written, and it ends with 1 where a tag has moved.
The protocol is the OCI distribution specification's (https://github.com/opencontainers/distribution-spec), with the token
dance that public registries ask for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FILES: Final = (
    "compose.yaml",
    "helm/darkroom/values.yaml",
    "docker/api.Dockerfile",
    "docker/worker.Dockerfile",
)
IMAGE: Final = re.compile(
    r"^(?P<key>\s*image:\s+|ARG PYTHON_IMAGE=)(?P<name>[a-z0-9./-]+):(?P<tag>[\w.-]+)(?:@sha256:[0-9a-f]{64})?$",
    re.MULTILINE,
)
OURS: Final = "darkroom-"
MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
TIMEOUT_S: Final = 30.0


class NotRead(Exception):
    """The registry did not answer with the manifest; the message says what it answered."""


def repository(name: str) -> str:
    """The repository on a registry: `redis` and `HOST/library/redis` are `library/redis`."""
    host, slash, rest = name.partition("/")
    path = rest if slash and "." in host else name
    return path if "/" in path else f"library/{path}"


def read_digest(registry: str, name: str, tag: str) -> str:
    """The digest of the tag's manifest, as `sha256:...`, computed from what was read. Raises `NotRead`."""
    url = f"{registry.rstrip('/')}/v2/{repository(name)}/manifests/{tag}"
    headers = {"Accept": ", ".join(MANIFESTS)}
    try:
        try:
            body, announced = _get(url, headers)
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code != 401 or not challenge.lower().startswith("bearer "):
                raise
            body, announced = _get(url, {**headers, "Authorization": f"Bearer {_token(challenge)}"})
    except (OSError, ValueError) as error:
        raise NotRead(f"{name}:{tag} was not read from {registry}: {error}") from error
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if announced and announced != digest:
        raise NotRead(f"{name}:{tag}: {registry} calls {announced} what is {digest}")
    return digest


def _get(url: str, headers: dict[str, str]) -> tuple[bytes, str]:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no web address")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return answer.read(), answer.headers.get("Docker-Content-Digest", "")


def _token(challenge: str) -> str:
    """A token for what the challenge names (https://distribution.github.io/distribution/spec/auth/token/)."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({name: fields[name] for name in ("service", "scope") if name in fields})
    body, _ = _get(f"{fields.get('realm', '')}?{query}", {})
    answer = json.loads(body)
    token: str = answer.get("token") or answer.get("access_token") or ""
    return token


def pinned(text: str, digest_of: Callable[[str, str], str]) -> str:
    """The text with every foreign image pinned to what `digest_of(name, tag)` answers."""

    def pin(found: re.Match[str]) -> str:
        if found["name"].startswith(OURS):
            return found[0]
        return f"{found['key']}{found['name']}:{found['tag']}@{digest_of(found['name'], found['tag'])}"

    return IMAGE.sub(pin, text)


def main(arguments: list[str]) -> int:
    """Prints or writes the digests of the images that the chart names."""
    parser = argparse.ArgumentParser(prog="python docker/digests.py", description=__doc__)
    parser.add_argument("registry", help="the URL of a registry")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 where a digest differs"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    known: dict[tuple[str, str], str] = {}

    def digest_of(name: str, tag: str) -> str:
        key = (repository(name), tag)
        if key not in known:
            known[key] = read_digest(given.registry, name, tag)
        return known[key]

    texts = {given.root / file: (given.root / file).read_text() for file in FILES}
    try:
        after = {path: pinned(text, digest_of) for path, text in texts.items()}
    except NotRead as error:
        sys.stderr.write(f"{error}\nNothing was written.\n")
        return 1
    changed = [path for path, text in after.items() if text != texts[path]]
    for path in changed:
        if not given.check:
            path.write_text(after[path])
        sys.stdout.write(f"{path}\n")
    return int(bool(changed) and given.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
