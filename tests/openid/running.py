"""Runs the OpenID provider of `provider.mjs`: oidc-provider, which the OpenID Foundation has certified."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import httpx

HERE: Final = Path(__file__).parent
FILES: Final = ("package.json", "package-lock.json", "provider.mjs")
INSTALLED: Final = HERE.parents[1] / ".cache" / "openid"
CLIENT: Final = "darkroom & co"
"""An id that must be encoded wherever it is sent."""
SECRET: Final = "a secret+of/the%client"
ACCOUNTS: Final[dict[str, dict[str, Any]]] = {
    "ada": {"name": "Ada Lovelace", "groups": ["staff", "reviewers"]},
    "bob": {"name": "Bob", "groups": ["reviewers"]},
    "root": {"name": "Root", "groups": ["operators"]},
    "eve": {"name": "Eve", "groups": ["staff"]},
}


def installed() -> Path:
    """The folder with the provider and its packages, as package-lock.json has them."""
    folder = INSTALLED / "-".join(_hash_of(HERE / name) for name in FILES)
    if not folder.is_dir():
        INSTALLED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=INSTALLED) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            for name in FILES:
                shutil.copy(HERE / name, made)
            command = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(command, cwd=made, check=True, stdout=subprocess.DEVNULL)
            try:
                made.rename(folder)
            except OSError:
                assert folder.is_dir(), "another process was first"
    return folder


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@contextmanager
def provider(redirect: str, *, secret: str = SECRET, in_id_token: bool = True) -> Iterator[str]:
    """The issuer of a provider that runs until the end of the block.

    Without `in_id_token` the groups of a person are told at the userinfo endpoint alone.
    """
    options = {"redirect": redirect, "secret": secret, "accounts": ACCOUNTS, "inIdToken": in_id_token}
    command = ["node", "provider.mjs", json.dumps(options)]
    environ = {**os.environ, "NODE_NO_WARNINGS": "1"}
    running = subprocess.Popen(
        command, cwd=installed(), env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        lines: list[str] = []
        while line := running.stdout.readline():
            lines.append(line)
            if line.startswith("http://"):
                yield line.strip()
                break
        else:
            raise AssertionError((lines, running.communicate()))
    finally:
        running.kill()
        running.communicate()


def signed_in(address: str, login: str, *, password: str = "x") -> str:
    """Do what a person does at the provider, and return the address that the browser is sent back to."""
    with httpx.Client(follow_redirects=False, timeout=30) as browser:
        answer = browser.get(address)
        for _ in range(20):
            if answer.is_redirect:
                address = urljoin(str(answer.request.url), answer.headers["location"])
                if "/sign-in/callback" in address:
                    return address
                answer = browser.get(address)
                continue
            assert answer.status_code == 200, answer.text
            action = re.search(r'<form[^>]*action="([^"]+)"', answer.text)
            prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
            assert action is not None, answer.text
            assert prompt is not None, answer.text
            form = {"prompt": prompt[1], "login": login, "password": password}
            answer = browser.post(urljoin(str(answer.request.url), action[1]), data=form)
    raise AssertionError("the provider never sends the browser back")
